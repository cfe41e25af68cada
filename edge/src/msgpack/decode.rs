//! MessagePack → JSON.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rmp::Marker;
use trishula::wire::client::MAX_DEPTH;
use trishula::wire::close::{Code, Refusal};

use super::{BIN, MAX_BIN, push_step};

/// Fields that the mesh reads itself: bytes there would be a name or a number to nobody.
const OWN: [&str; 12] = [
    "type",
    "from",
    "to",
    "id",
    "timestamp",
    "priority",
    "reply_to",
    "class",
    "receipt",
    "cursor",
    "number",
    "retry_of",
];

/// One frame as JSON text of at most `max` bytes.
///
/// # Errors
///
/// `bad_frame` for what is not one map of the form that docs/protocol.md tells, `too_deep`, and `too_large`. Each says at
/// which byte, or where in the frame.
pub fn to_json(frame: &[u8], max: usize) -> Result<Bytes, Refusal> {
    let mut reader = Reader {
        frame,
        at: 0,
        out: Vec::with_capacity(frame.len() * 2),
        max,
        path: String::new(),
        bins: Vec::new(),
        marked: 0,
    };
    match reader.marker()? {
        marker @ (Marker::FixMap(_) | Marker::Map16 | Marker::Map32) => reader.map(marker, 1)?,
        _ => return Err(bad("the frame is not a MessagePack map")),
    }
    if reader.at < frame.len() {
        return Err(bad(format!("{} bytes follow the map", frame.len() - reader.at)));
    }
    Ok(reader.out.into())
}

fn bad(why: impl Into<String>) -> Refusal {
    Refusal::new(Code::BadFrame, why.into())
}

struct Reader<'a> {
    frame: &'a [u8],
    at: usize,
    out: Vec<u8>,
    max: usize,
    /// Where we are, as a JSON Pointer.
    path: String,
    bins: Vec<String>,
    /// Bytes of those, as they will be written.
    marked: usize,
}

impl<'a> Reader<'a> {
    fn marker(&mut self) -> Result<Marker, Refusal> {
        Ok(Marker::from_u8(self.number::<1>()?[0]))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Refusal> {
        let end = self.at.checked_add(length).filter(|end| *end <= self.frame.len());
        let end =
            end.ok_or_else(|| bad(format!("the frame ends within a value that begins at byte {}", self.at)))?;
        let taken = &self.frame[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let at = self.at;
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| bad(format!("a number at byte {at} can't be read")))
    }

    fn length_8(&mut self) -> Result<usize, Refusal> {
        Ok(usize::from(self.number::<1>()?[0]))
    }

    fn length_16(&mut self) -> Result<usize, Refusal> {
        Ok(usize::from(u16::from_be_bytes(self.number()?)))
    }

    fn length_32(&mut self) -> Result<usize, Refusal> {
        Ok(u32::from_be_bytes(self.number()?) as usize)
    }

    fn put(&mut self, text: &[u8]) -> Result<(), Refusal> {
        if self.out.len() + text.len() > self.max {
            return Err(self.too_large());
        }
        self.out.extend_from_slice(text);
        Ok(())
    }

    fn too_large(&self) -> Refusal {
        let message = format!("the frame has more than {} bytes as JSON, which is the limit", self.max);
        Refusal::new(Code::TooLarge, message)
    }

    /// Writing into memory can't fail; the limit is looked at after.
    fn put_shown(&mut self, value: std::fmt::Arguments<'_>) -> Result<(), Refusal> {
        let _ = self.out.write_fmt(value);
        self.put(b"")
    }

    fn value(&mut self, depth: usize) -> Result<(), Refusal> {
        let at = self.at;
        let marker = self.marker()?;
        match marker {
            Marker::Null => self.put(b"null"),
            Marker::True => self.put(b"true"),
            Marker::False => self.put(b"false"),
            Marker::FixPos(n) => self.put_shown(format_args!("{n}")),
            Marker::FixNeg(n) => self.put_shown(format_args!("{n}")),
            Marker::U8
            | Marker::U16
            | Marker::U32
            | Marker::U64
            | Marker::I8
            | Marker::I16
            | Marker::I32
            | Marker::I64 => self.integer(marker),
            Marker::F32 => {
                let float = f32::from_be_bytes(self.number()?);
                self.float(float.into(), at)
            }
            Marker::F64 => {
                let float = f64::from_be_bytes(self.number()?);
                self.float(float, at)
            }
            Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => {
                let text = self.text(marker)?;
                self.put_text(text)
            }
            Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => self.bin(marker),
            Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => self.array(marker, depth + 1),
            Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => self.map(marker, depth + 1),
            _ => {
                Err(bad(format!("an extension type, at byte {at}: those are not taken, timestamps neither")))
            }
        }
    }

    fn integer(&mut self, marker: Marker) -> Result<(), Refusal> {
        let unsigned: u64 = match marker {
            Marker::U8 => self.number::<1>()?[0].into(),
            Marker::U16 => u16::from_be_bytes(self.number()?).into(),
            Marker::U32 => u32::from_be_bytes(self.number()?).into(),
            Marker::U64 => u64::from_be_bytes(self.number()?),
            _ => {
                let signed: i64 = match marker {
                    Marker::I8 => i8::from_be_bytes(self.number()?).into(),
                    Marker::I16 => i16::from_be_bytes(self.number()?).into(),
                    Marker::I32 => i32::from_be_bytes(self.number()?).into(),
                    _ => i64::from_be_bytes(self.number()?),
                };
                return self.put_shown(format_args!("{signed}"));
            }
        };
        self.put_shown(format_args!("{unsigned}"))
    }

    fn float(&mut self, float: f64, at: usize) -> Result<(), Refusal> {
        if !float.is_finite() {
            return Err(bad(format!("{float} at byte {at}: JSON has no such number")));
        }
        // Shortest form that reads back the same; with a point or an exponent, so that it stays a float.
        self.put_shown(format_args!("{float:?}"))
    }

    fn text(&mut self, marker: Marker) -> Result<&'a str, Refusal> {
        let length = match marker {
            Marker::FixStr(length) => usize::from(length),
            Marker::Str8 => self.length_8()?,
            Marker::Str16 => self.length_16()?,
            _ => self.length_32()?,
        };
        let at = self.at;
        std::str::from_utf8(self.take(length)?)
            .map_err(|e| bad(format!("the str at byte {at} is not UTF-8: {e}")))
    }

    fn put_text(&mut self, text: &str) -> Result<(), Refusal> {
        if text.len() > self.max {
            return Err(self.too_large());
        }
        serde_json::to_writer(&mut self.out, text).map_err(|e| bad(e.to_string()))?;
        self.put(b"")
    }

    fn bin(&mut self, marker: Marker) -> Result<(), Refusal> {
        let length = match marker {
            Marker::Bin8 => self.length_8()?,
            Marker::Bin16 => self.length_16()?,
            _ => self.length_32()?,
        };
        let bytes = self.take(length)?;
        let field = self.path.split('/').nth(1).unwrap_or_default();
        if OWN.contains(&field) {
            return Err(bad(format!(
                "{field}: is bin; bytes are taken in payload and in fields that are yours"
            )));
        }
        if self.bins.len() >= MAX_BIN {
            return Err(bad(format!("more than {MAX_BIN} values are bin")));
        }
        // They are written out behind the frame.
        self.marked += self.path.len() + 3;
        if self.out.len() + self.marked > self.max {
            return Err(self.too_large());
        }
        self.bins.push(self.path.clone());
        if length / 3 * 4 > self.max {
            return Err(self.too_large());
        }
        let text = STANDARD.encode(bytes);
        self.put(b"\"")?;
        self.put(text.as_bytes())?;
        self.put(b"\"")
    }

    fn array(&mut self, marker: Marker, depth: usize) -> Result<(), Refusal> {
        check_depth(depth)?;
        let count = match marker {
            Marker::FixArray(count) => usize::from(count),
            Marker::Array16 => self.length_16()?,
            _ => self.length_32()?,
        };
        self.put(b"[")?;
        let here = self.path.len();
        for n in 0..count {
            if n > 0 {
                self.put(b",")?;
            }
            push_step(&mut self.path, &n.to_string());
            self.value(depth)?;
            self.path.truncate(here);
        }
        self.put(b"]")
    }

    fn map(&mut self, marker: Marker, depth: usize) -> Result<(), Refusal> {
        check_depth(depth)?;
        let count = match marker {
            Marker::FixMap(count) => usize::from(count),
            Marker::Map16 => self.length_16()?,
            _ => self.length_32()?,
        };
        self.put(b"{")?;
        let here = self.path.len();
        for n in 0..count {
            if n > 0 {
                self.put(b",")?;
            }
            let at = self.at;
            let key = match self.marker()? {
                marker @ (Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32) => {
                    self.text(marker)?
                }
                _ => return Err(bad(format!("the key at byte {at} is no str"))),
            };
            if depth == 1 && key == BIN {
                return Err(bad(format!("{BIN}: is a field that the server writes; bytes are sent as bin")));
            }
            self.put_text(key)?;
            self.put(b":")?;
            push_step(&mut self.path, key);
            self.value(depth)?;
            self.path.truncate(here);
        }
        if depth == 1 && !self.bins.is_empty() {
            self.put_bins()?;
        }
        self.put(b"}")
    }

    /// The last field of the frame. There is one before it: the one with the bytes.
    fn put_bins(&mut self) -> Result<(), Refusal> {
        self.put_shown(format_args!(",\"{BIN}\":"))?;
        let bins = std::mem::take(&mut self.bins);
        serde_json::to_writer(&mut self.out, &bins).map_err(|e| bad(e.to_string()))?;
        self.put(b"")
    }
}

fn check_depth(depth: usize) -> Result<(), Refusal> {
    if depth > MAX_DEPTH {
        let message = format!("the frame is nested deeper than {MAX_DEPTH} levels");
        return Err(Refusal::new(Code::TooDeep, message));
    }
    Ok(())
}
