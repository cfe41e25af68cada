//! Every frame as bytes, and back.

use bytes::{Buf, Bytes};

use super::codec::{Parts, pack, unpack};
use super::{Encoded, Error, Frame, kind};

impl Frame {
    /// Encodes the frame. The payload is shared, not copied.
    pub fn encode(&self) -> Encoded {
        let kind = self.kind();
        let none = Bytes::new;
        match self {
            Frame::Hello(head) => pack(kind, head, none()),
            Frame::Ping(stamp) | Frame::Goodbye(stamp) => pack(kind, stamp, none()),
            Frame::Pong(stamp, wall_ms) => pack(kind, &(stamp, wall_ms), none()),
            Frame::LinkState(head) => pack(kind, head, none()),
            Frame::Agents(head) => pack(kind, head, none()),
            Frame::Remembers(head) => pack(kind, head, none()),
            Frame::Digest(head) => pack(kind, head, none()),
            Frame::Revocations(number, der) => pack(kind, number, der.clone()),
            Frame::Call(head, body) => pack(kind, head, body.clone()),
            Frame::Reply(head, body) => pack(kind, head, body.clone()),
            Frame::Forward(head, body) => pack(kind, head, body.clone()),
            Frame::Receipt(head) => pack(kind, head, none()),
            Frame::Confirm(head) => pack(kind, head, none()),
            Frame::Inquire(head) => pack(kind, head, none()),
            Frame::Hold(head, body) => pack(kind, head, body.clone()),
            Frame::Release(head) => pack(kind, head, none()),
            Frame::Withdraw(head) => pack(kind, head, none()),
            Frame::Heard(head) => pack(kind, head, none()),
            Frame::Attach(head) => pack(kind, head, none()),
            Frame::Attached(session, registered_ms) => pack(kind, &(session, registered_ms), none()),
            Frame::Detach(session, forget) => pack(kind, &(session, forget), none()),
            Frame::Evict(session, refusal) => pack(kind, &(session, refusal), none()),
            Frame::Submit(session, head, body) => pack(kind, &(session, head), body.clone()),
            Frame::Told(session, receipt) => pack(kind, &(session, receipt), none()),
            Frame::Deliver(head, body) => pack(kind, head, body.clone()),
            Frame::Settle(session, settled) => pack(kind, &(session, settled), none()),
            Frame::Query(session, number, from, id) => pack(kind, &(session, number, from, id), none()),
            Frame::Answer(session, number, body) => pack(kind, &(session, number), body.clone()),
            Frame::AskAgents(session, number) => pack(kind, &(session, number), none()),
            Frame::AgentList(session, number, list) => pack(kind, &(session, number, list), none()),
            Frame::RoomList(head) => pack(kind, head, none()),
            Frame::RoomDigest(head) => pack(kind, head, none()),
            Frame::RoomEntry(head, body) => pack(kind, head, body.clone()),
            Frame::RoomState(head) => pack(kind, head, none()),
            Frame::RoomSubscribe(head) => pack(kind, head, none()),
            Frame::RoomUnsubscribe(session, room) => pack(kind, &(session, room), none()),
            Frame::RoomAsk(head) => pack(kind, head, none()),
            Frame::RoomJoined(head, body) => pack(kind, head, body.clone()),
            Frame::RoomMessage(head, body) => pack(kind, head, body.clone()),
            Frame::RoomLapse(head) => pack(kind, head, none()),
            Frame::RoomMember(head) => pack(kind, head, none()),
            Frame::RoomAgain(head) => pack(kind, head, none()),
            Frame::RoomMost(session, most) => pack(kind, &(session, most), none()),
            Frame::Unknown(kind) => pack(*kind, &(), none()),
        }
    }

    /// Takes one whole frame from the front of `buffer`; `None`: it is not all there yet, and nothing was
    /// taken. The payload shares the buffer's memory.
    pub fn decode(buffer: &mut Bytes) -> Result<Option<Frame>, Error> {
        let Some(parts) = Parts::find(buffer)? else { return Ok(None) };
        let head = buffer.slice(parts.head_at..parts.head_at + parts.head);
        let body = buffer.slice(parts.payload_at..parts.payload_at + parts.payload);
        buffer.advance(parts.payload_at + parts.payload);
        Frame::from_parts(parts.kind, &head, body).map(Some)
    }

    fn from_parts(kind: u8, head: &[u8], body: Bytes) -> Result<Frame, Error> {
        let length = body.len();
        let (frame, takes_payload) = match kind {
            kind::Hello => (Frame::Hello(unpack(kind, head)?), false),
            kind::Ping => (Frame::Ping(unpack(kind, head)?), false),
            kind::Pong => unpack(kind, head).map(|(stamp, wall_ms)| (Frame::Pong(stamp, wall_ms), false))?,
            kind::Goodbye => (Frame::Goodbye(unpack(kind, head)?), false),
            kind::LinkState => (Frame::LinkState(unpack(kind, head)?), false),
            kind::Agents => (Frame::Agents(unpack(kind, head)?), false),
            kind::Remembers => (Frame::Remembers(unpack(kind, head)?), false),
            kind::Digest => (Frame::Digest(unpack(kind, head)?), false),
            kind::Revocations => (Frame::Revocations(unpack(kind, head)?, body), true),
            kind::Call => (Frame::Call(unpack(kind, head)?, body), true),
            kind::Reply => (Frame::Reply(unpack(kind, head)?, body), true),
            kind::Forward => (Frame::Forward(unpack(kind, head)?, body), true),
            kind::Receipt => (Frame::Receipt(unpack(kind, head)?), false),
            kind::Confirm => (Frame::Confirm(unpack(kind, head)?), false),
            kind::Inquire => (Frame::Inquire(unpack(kind, head)?), false),
            kind::Hold => (Frame::Hold(unpack(kind, head)?, body), true),
            kind::Release => (Frame::Release(unpack(kind, head)?), false),
            kind::Withdraw => (Frame::Withdraw(unpack(kind, head)?), false),
            kind::Heard => (Frame::Heard(unpack(kind, head)?), false),
            kind::Attach => (Frame::Attach(unpack(kind, head)?), false),
            kind::Attached => {
                let (session, registered_ms) = unpack(kind, head)?;
                (Frame::Attached(session, registered_ms), false)
            }
            kind::Detach => unpack(kind, head).map(|(s, forget)| (Frame::Detach(s, forget), false))?,
            kind::Evict => unpack(kind, head).map(|(s, refusal)| (Frame::Evict(s, refusal), false))?,
            kind::Submit => unpack(kind, head).map(|(s, h)| (Frame::Submit(s, h, body), true))?,
            kind::Told => unpack(kind, head).map(|(s, receipt)| (Frame::Told(s, receipt), false))?,
            kind::Deliver => (Frame::Deliver(unpack(kind, head)?, body), true),
            kind::Settle => unpack(kind, head).map(|(s, settled)| (Frame::Settle(s, settled), false))?,
            kind::Query => {
                unpack(kind, head).map(|(s, n, from, id)| (Frame::Query(s, n, from, id), false))?
            }
            kind::Answer => unpack(kind, head).map(|(s, n)| (Frame::Answer(s, n, body), true))?,
            kind::AskAgents => unpack(kind, head).map(|(s, n)| (Frame::AskAgents(s, n), false))?,
            kind::AgentList => unpack(kind, head).map(|(s, n, l)| (Frame::AgentList(s, n, l), false))?,
            _ => return Frame::of_room(kind, head, body),
        };
        no_payload(kind, length, takes_payload)?;
        Ok(frame)
    }

    /// The frames of rooms, and those of kinds that nobody knows.
    fn of_room(kind: u8, head: &[u8], body: Bytes) -> Result<Frame, Error> {
        let length = body.len();
        let (frame, takes_payload) = match kind {
            kind::RoomList => (Frame::RoomList(unpack(kind, head)?), false),
            kind::RoomDigest => (Frame::RoomDigest(unpack(kind, head)?), false),
            kind::RoomEntry => (Frame::RoomEntry(unpack(kind, head)?, body), true),
            kind::RoomState => (Frame::RoomState(unpack(kind, head)?), false),
            kind::RoomSubscribe => (Frame::RoomSubscribe(unpack(kind, head)?), false),
            kind::RoomUnsubscribe => {
                unpack(kind, head).map(|(s, room)| (Frame::RoomUnsubscribe(s, room), false))?
            }
            kind::RoomAsk => (Frame::RoomAsk(unpack(kind, head)?), false),
            kind::RoomJoined => (Frame::RoomJoined(unpack(kind, head)?, body), true),
            kind::RoomMessage => (Frame::RoomMessage(unpack(kind, head)?, body), true),
            kind::RoomLapse => (Frame::RoomLapse(unpack(kind, head)?), false),
            kind::RoomMember => (Frame::RoomMember(unpack(kind, head)?), false),
            kind::RoomAgain => (Frame::RoomAgain(unpack(kind, head)?), false),
            kind::RoomMost => unpack(kind, head).map(|(s, most)| (Frame::RoomMost(s, most), false))?,
            _ => (Frame::Unknown(kind), true),
        };
        no_payload(kind, length, takes_payload)?;
        Ok(frame)
    }
}

fn no_payload(kind: u8, length: usize, takes_payload: bool) -> Result<(), Error> {
    if length > 0 && !takes_payload { Err(Error::UnexpectedPayload { kind, length }) } else { Ok(()) }
}
