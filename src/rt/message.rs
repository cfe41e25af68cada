//! One message on a stream of bytes: its length in four bytes, big-endian, then that many bytes. It is read
//! exactly, so that what follows is there for whoever reads the stream next.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one message of at most `max` bytes. `None`: the other side has finished.
pub async fn read(from: &mut (impl AsyncRead + Unpin), max: usize) -> io::Result<Option<Bytes>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > max {
        let why = format!("a message of {length} bytes was announced; at most {max} are taken");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    Ok(Some(body.into()))
}

/// Writes one message.
pub async fn write(to: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    to.write_all(&[&length.to_be_bytes(), body].concat()).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_follows_a_message_is_left_alone_and_what_is_too_long_is_not_taken() {
        // covers B19
        let mut stream = Vec::new();
        write(&mut stream, b"question").await.unwrap();
        stream.extend_from_slice(b"\x00\x00\x00\x09");
        let mut left = stream.as_slice();
        assert_eq!(read(&mut left, 8).await.unwrap().unwrap(), "question");
        assert_eq!(left, b"\x00\x00\x00\x09");
        assert!(read(&mut left, 8).await.unwrap_err().to_string().contains("9 bytes"));
        assert!(read(&mut tokio::io::empty(), 8).await.unwrap().is_none());
    }
}
