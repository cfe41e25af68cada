//! UDP datagrams, and nothing else: the floor. With something beside, it is the same way without that.
use crate::load::{Load, Outcome, Record, message, number};
use crate::place::Place;
use anyhow::Result;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::UnboundedReceiver;

pub fn run(place: &Place, load: &Load) -> Result<Outcome> {
    let record = Record::default();
    let received = record.clone();
    let alone = load.alone();
    place.both(
        |up| async move {
            let socket = UdpSocket::bind(place.any_port(1)).await?;
            up.send(socket.local_addr()?)?;
            let mut packet = [0; 2048];
            loop {
                let length = socket.recv(&mut packet).await?;
                if let Some(n) = number(&packet[..length]) {
                    received.arrived(n);
                }
            }
        },
        |to| async move {
            let socket = UdpSocket::bind(place.any_port(0)).await?;
            socket.connect(to).await?;
            let carry = |mut queue: UnboundedReceiver<u64>| async move {
                while let Some(n) = queue.recv().await {
                    socket.send(&message(n)).await?;
                }
                Ok(())
            };
            alone.through(&record, carry, std::future::pending()).await
        },
    )
}
