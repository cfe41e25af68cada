//! A message: its fields, checked one by one.

use bytes::Bytes;

use super::insert::Missing;
use super::{ClientFrame, MAX_DURATION_MS, MAX_TIMESTAMP, Raw, Speaker, Urgency, copies_of, number};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Class, Form, Head, Kind, Priority, State, Target};
use crate::wire::ids::{AgentAddr, MessageId, Namespace};

impl Raw<'_> {
    pub(super) fn message(
        &self,
        kind: Kind,
        bytes: &Bytes,
        id: Option<&MessageId>,
        speaker: Speaker<'_>,
        stamp: impl Fn() -> (MessageId, u64),
    ) -> Result<ClientFrame, Refusal> {
        let Some(agent) = speaker.agent else {
            return Err(Refusal::new(
                Code::NotRegistered,
                format!("{kind} needs a registered agent to come from"),
            ));
        };
        self.check_fields()?;
        self.check_from(agent, speaker.namespace)?;
        let (stamped_id, now_ms) = match (id, self.timestamp.map(|at| at.0)) {
            (Some(id), Some(at)) => (id.clone(), at as u64),
            (given, at) => {
                let (new, now) = stamp();
                (given.cloned().unwrap_or(new), at.map_or(now, |at| at as u64))
            }
        };
        let (class, to) = (self.class(kind)?, self.target(speaker)?);
        let head = Head {
            from: agent.clone(),
            number: self.number.map(|given| number::read(given, &to)).transpose()?,
            kind,
            priority: self.priority()?,
            class,
            reply_to: self.reply_to()?,
            receipt: self.receipt(class, speaker)?,
            ttl_ms: self.ttl_ms,
            not_before_ms: self.not_before_ms,
            copies: self.copies(class, &to, speaker)?,
            to,
            create: self.create.unwrap_or(false),
            form: Form::Json,
            id: stamped_id,
            sent_ms: now_ms,
            depth: 0,
            retry_of: None,
            taken: 0,
        };
        let missing = Missing {
            from: self.from.is_none().then_some(&head.from.name),
            id: id.is_none().then_some(&head.id),
            timestamp: self.timestamp.is_none().then_some(now_ms),
        };
        let payload = missing.insert_into(bytes);
        Ok(ClientFrame::Message(Box::new(head), payload))
    }

    fn check_fields(&self) -> Result<(), Refusal> {
        let bad = |message: String| Err(Refusal::new(Code::BadFrame, message));
        let ours = [("redelivered", self.redelivered), ("cursor", self.cursor), ("retry_of", self.retry_of)];
        if let Some((name, _)) = ours.into_iter().find(|(_, given)| given.is_some()) {
            return bad(format!("{name}: only the server adds it"));
        }
        if let Some(at) = self.timestamp.map(|at| at.0).filter(|at| !(0.0..=MAX_TIMESTAMP).contains(at)) {
            return bad(format!("timestamp: {at} is not from 0 to {MAX_TIMESTAMP}"));
        }
        if let Some(ms) = self.ttl_ms.filter(|ms| !(1..=MAX_DURATION_MS).contains(ms)) {
            return bad(format!("ttl_ms: {ms} is not from 1 to {MAX_DURATION_MS}"));
        }
        if let Some(ms) = self.not_before_ms.filter(|ms| *ms > MAX_DURATION_MS) {
            return bad(format!("not_before_ms: {ms} is over {MAX_DURATION_MS}"));
        }
        Ok(())
    }

    fn check_from(&self, agent: &AgentAddr, home: &Namespace) -> Result<(), Refusal> {
        let Some(from) = &self.from else { return Ok(()) };
        match AgentAddr::parse(&from.0, home) {
            Ok(given) if given == *agent => Ok(()),
            Ok(given) => {
                let message = format!("from: {given} is not this session's agent, {agent}");
                Err(Refusal::new(Code::FromMismatch, message))
            }
            Err(e) => Err(Refusal::new(Code::BadName, format!("from: {e}"))),
        }
    }

    pub(super) fn target(&self, speaker: Speaker<'_>) -> Result<Target, Refusal> {
        let Some(to) = &self.to else {
            return Err(Refusal::new(Code::BadFrame, format!("to: {} must say whom it is for", self.kind.0)));
        };
        Target::parse(&to.0, speaker.namespace).map_err(|e| Refusal::new(Code::BadName, format!("to: {e}")))
    }

    fn priority(&self) -> Result<Priority, Refusal> {
        let Some(Urgency(number)) = self.priority else { return Ok(Priority::DEFAULT) };
        Priority::new(number)
            .ok_or_else(|| Refusal::new(Code::BadFrame, format!("priority: {number} is not from 1 to 5")))
    }

    fn class(&self, kind: Kind) -> Result<Class, Refusal> {
        match self.class.as_ref().map(|word| word.0.as_ref()) {
            None => Ok(kind.default_class()),
            Some("durable") => Ok(Class::Durable),
            Some("live") => Ok(Class::Live),
            Some(_) => Err(Refusal::new(Code::BadFrame, "class: is neither \"durable\" nor \"live\"")),
        }
    }

    /// What the session said of all its messages holds for those that can have a second copy.
    fn copies(&self, class: Class, to: &Target, speaker: Speaker<'_>) -> Result<u8, Refusal> {
        let has_copies = class == Class::Durable && !matches!(to, Target::Room(..));
        let default = if has_copies { speaker.copies } else { 1 };
        Ok(copies_of(self.copies)?.unwrap_or(default))
    }

    fn receipt(&self, class: Class, speaker: Speaker<'_>) -> Result<Option<State>, Refusal> {
        let Some(word) = &self.receipt else {
            let to_one = self.to.as_ref().is_some_and(|to| !is_broadcast(&to.0));
            let wish = speaker.receipts.filter(|_| to_one);
            // Of a live message there is one state to tell.
            return Ok(match class {
                Class::Durable => wish,
                Class::Live => wish.filter(|wish| *wish >= State::Delivered).map(|_| State::Delivered),
            });
        };
        State::parse_wish(&word.0)
            .map_err(|why| Refusal::new(Code::BadFrame, format!("receipt: {:?} {why}", word.0)))
    }

    /// Old writers say `null` or an empty string for "answers nothing".
    pub(super) fn reply_to(&self) -> Result<Option<MessageId>, Refusal> {
        match self.reply_to.as_ref().filter(|id| !id.0.is_empty()) {
            None => Ok(None),
            Some(id) => MessageId::new(&id.0)
                .map(Some)
                .map_err(|e| Refusal::new(Code::BadName, format!("reply_to: {e}"))),
        }
    }
}

fn is_broadcast(to: &str) -> bool {
    to.rsplit('/').next() == Some("broadcast")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::client::{DEFAULT_MAX_FRAME, parse};

    #[test]
    fn what_a_session_says_of_copies_holds_for_what_can_have_them_and_does_not_say_itself() {
        // covers T04
        let namespace = Namespace::new("trishula").unwrap();
        let agent = AgentAddr::parse("dc", &namespace).unwrap();
        let read = |text: &str| {
            let speaker = Speaker {
                agent: Some(&agent),
                namespace: &namespace,
                max_frame: DEFAULT_MAX_FRAME,
                receipts: None,
                copies: 2,
            };
            let text = Bytes::copy_from_slice(text.as_bytes());
            match parse(&text, speaker, || (MessageId::new("m-1").unwrap(), 1)).unwrap().frame {
                ClientFrame::Message(head, _) => (head.copies, head.refusal()),
                other => panic!("{other:?}"),
            }
        };
        for (text, copies) in [
            (r#"{"type":"COMMAND","to":"agni"}"#, 2),
            (r#"{"type":"COMMAND","to":"agni","copies":null}"#, 2),
            (r#"{"type":"STATUS","to":"broadcast"}"#, 2),
            (r#"{"type":"COMMAND","to":"agni","copies":1}"#, 1),
            (r#"{"type":"COMMAND","to":"agni","class":"live"}"#, 1),
            (r#"{"type":"HEARTBEAT","to":"agni"}"#, 1),
            (r#"{"type":"ACK","to":"agni","reply_to":"c-1"}"#, 1),
            (r#"{"type":"STATUS","to":"room:deploys"}"#, 1),
            (r#"{"type":"PUBLISH","to":"room:deploys"}"#, 1),
        ] {
            assert_eq!(read(text), (copies, None), "{text}");
        }
    }
}
