//! What comes to a session from its node.

use serde::Serialize;
use serde_json::value::RawValue;

use super::reply::AgentsPayload;
use super::watch::micros;
use super::{Asked, Attaching, End, Phase, Session};
use crate::gateway::carrier::Carrier;
use crate::gateway::hub::{Delivery, Notice};
use crate::link;
use crate::rt::clock;
use crate::rt::queue::Refused;
use crate::wire::client::{ErrorPayload, marked};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::State;
use crate::wire::frame::{Frame, MAX_HOPS, ROOMS, Receipt};
use crate::wire::ids::{NodeName, Sequence};

/// What this release serves of the reserved parts of the protocol.
const FEATURES: [&str; 10] = [
    "receipts:accepted",
    "receipts:stored",
    "receipts:delivered",
    "receipts:acked",
    "nack",
    "query",
    ROOMS,
    "not_before",
    "copies",
    "create",
];

#[derive(Serialize)]
struct Registered<'a> {
    agent: &'a str,
    namespace: &'a str,
    node: &'a str,
    session: &'a str,
    heartbeat_ms: u32,
    window: u16,
    copies: u8,
    features: Vec<&'static str>,
}

#[derive(Serialize)]
struct Told<'a> {
    state: &'static str,
    recipient: &'a str,
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    /// Of a broadcast: how many it was accepted for …
    #[serde(skip_serializing_if = "Option::is_none")]
    recipients: Option<u32>,
    /// … and how many not.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<u32>,
}

impl<C: Carrier> Session<C> {
    pub(super) async fn notice(&mut self, notice: Notice) -> Result<(), End> {
        match notice {
            Notice::Attached { link, node, rooms } => {
                self.has_rooms = rooms;
                Box::pin(self.attached(link, node)).await
            }
            Notice::Moved => {
                self.unlinked();
                self.wait_for_link();
                Ok(())
            }
            Notice::Down => {
                self.unlinked();
                Box::pin(self.attach_failed("there is no link to a node at the moment")).await
            }
            Notice::Told(receipt) => {
                self.told(receipt);
                Ok(())
            }
            Notice::Agents(number, list) => {
                if let Some(asked) = self.answered(number) {
                    let payload = AgentsPayload::new(list, self.settings.max_frame);
                    self.say("AGENTS", asked.id.as_ref(), payload);
                }
                Ok(())
            }
            Notice::Answer(number, payload) => {
                if let Some(asked) = self.answered(number) {
                    self.say_state(asked, &payload);
                }
                Ok(())
            }
            Notice::Urgent(delivery) => self.deliver(delivery),
        }
    }

    /// Hands a message to the carrier; the loop has seen that there is room.
    pub(super) fn deliver(&mut self, delivery: Delivery) -> Result<(), End> {
        // The session may have said UNREGISTER while the message was on its way.
        let Some(agent) = &self.agent else { return Ok(()) };
        if delivery.handing.tag != 0 {
            if !self.is_ours(&delivery, agent) {
                return Ok(());
            }
            self.hands.take(&delivery);
        }
        let Delivery { deliver, handing, payload, .. } = delivery;
        let head = &deliver.head;
        if let (Some(to), Some((_, node))) = (&deliver.confirm, &self.link) {
            self.confirms.push_back(Receipt {
                to: to.clone(),
                sender: head.from.clone(),
                id: head.id.clone(),
                recipient: agent.clone(),
                counts: None,
                node: node.clone(),
                state: State::Delivered,
                refusal: None,
                asked: true,
                keeper: node.clone(),
                hops_left: MAX_HOPS,
            });
        }
        self.sent += 1;
        self.unflushed = true;
        let text = marked(&payload, handing.redelivered, head.retry_of.as_ref());
        self.carrier.send(text).map_err(|lost| super::lost_end(lost.0))
    }

    /// Tells the senders who asked that their messages were written; after the flush.
    pub(super) fn confirm(&mut self) {
        let Some((link, _)) = &self.link else {
            self.confirms.clear();
            return;
        };
        while let Some(receipt) = self.confirms.pop_front() {
            let frame = Frame::Receipt(receipt);
            match (link.try_send(&frame), frame) {
                (Ok(()), _) => {}
                (Err(Refused::Full(())), Frame::Receipt(receipt)) => {
                    self.confirms.push_front(receipt);
                    return self.try_again();
                }
                _ => return,
            }
        }
    }

    async fn attached(&mut self, link: link::Handle, node: NodeName) -> Result<(), End> {
        if self.phase != Phase::Registered {
            return Ok(());
        }
        self.link = Some((link, node));
        let Some(attaching) = self.attaching.take() else { return Ok(()) };
        if let Some(id) = attaching.answer {
            self.say_registered(id.as_ref());
        }
        self.rearm();
        match attaching.held {
            Some(held) => self.act(held).await,
            None => Ok(()),
        }
    }

    fn say_registered(&mut self, id: Option<&crate::wire::ids::MessageId>) {
        let (Some(agent), Some((_, node))) = (self.agent.clone(), self.link.clone()) else { return };
        let session = self.label();
        let payload = Registered {
            agent: agent.name.as_str(),
            namespace: agent.namespace.as_str(),
            node: node.as_str(),
            session: &session,
            heartbeat_ms: self.register.heartbeat_ms,
            window: self.register.window,
            copies: self.register.copies,
            features: FEATURES.into_iter().filter(|what| *what != ROOMS || self.has_rooms).collect(),
        };
        self.say("REGISTERED", id, payload);
    }

    /// The registration that the session waits for does not come now. The hub makes it as soon as it can;
    /// what waited for it is refused.
    pub(super) async fn attach_failed(&mut self, why: &str) -> Result<(), End> {
        let Some(attaching) = self.attaching.take() else { return Ok(()) };
        let refusal = Refusal::new(Code::Unavailable, why);
        if let Some(id) = attaching.answer {
            self.error(id.as_ref(), Some("REGISTER".into()), &refusal);
        }
        self.rearm();
        match attaching.held {
            Some(held) => self.act(held).await,
            None => Ok(()),
        }
    }

    /// The link is not to be used any more. What it brought is the node's again, and what was asked over it has no answer.
    pub(super) fn unlinked(&mut self) {
        // One that the sessions have only left stays until what it was asked is answered.
        let broke = self.link.take().filter(|(link, _)| link.is_closed());
        self.hands.forget();
        let refusal = Refusal::new(Code::Unavailable, "the link to the node broke before it answered");
        for asked in std::mem::take(&mut self.asked) {
            self.error(asked.id.as_ref(), Some(asked.word.into()), &refusal);
        }
        let Some((_, node)) = broke else { return };
        let message = format!(
            "the link to node {node} broke before it said whether it has the message; if it has, it is recognised when it comes again"
        );
        let refusal = Refusal::new(Code::Unavailable, message);
        for id in self.unanswered.take() {
            self.error(Some(&id), None, &refusal);
        }
    }

    /// The hub registers the session over another link: what the client says meanwhile waits for that.
    fn wait_for_link(&mut self) {
        if self.phase == Phase::Registered && self.attaching.is_none() {
            let deadline = clock::micros() + micros(self.settings.attach_within);
            self.attaching = Some(Attaching { deadline, answer: None, held: None });
            self.rearm();
        }
    }

    fn answered(&mut self, number: Sequence) -> Option<Asked> {
        let at = self.asked.iter().position(|asked| asked.number == number)?;
        self.asked.remove(at)
    }

    /// The answer to QUERY: the payload of STATE, or that of ERROR.
    fn say_state(&mut self, asked: Asked, payload: &[u8]) {
        let id = asked.id.as_ref();
        if let Ok(error) = serde_json::from_slice::<ErrorPayload>(payload) {
            return self.say("ERROR", id, ErrorPayload { frame: Some(asked.word.into()), ..error });
        }
        match serde_json::from_slice::<&RawValue>(payload) {
            Ok(state) => self.say(if asked.word == "QUERY" { "STATE" } else { asked.word }, id, state),
            Err(e) => {
                let message = format!("the node's answer can't be read: {e}");
                self.error(id, Some(asked.word.into()), &Refusal::new(Code::Internal, message));
            }
        }
    }

    fn told(&mut self, receipt: Receipt) {
        self.measured.told(&receipt.id, receipt.state, clock::micros());
        self.unanswered.answered(&receipt.id);
        let failed = matches!(receipt.state, State::Nacked | State::Expired | State::Dead | State::Refused);
        if receipt.state == State::Refused || (failed && !receipt.asked) {
            let unknown = || Refusal::new(Code::Internal, "the message could not be delivered");
            let refusal = receipt.refusal.unwrap_or_else(unknown);
            self.error(Some(&receipt.id), None, &refusal);
            return;
        }
        if !receipt.asked {
            return;
        }
        let recipient = self.shown(&receipt.recipient);
        let why = receipt.refusal.as_ref().map_or("", |refusal| refusal.message.as_str());
        let (recipients, refused) = receipt.counts.unzip();
        let refused = refused.filter(|refused| *refused > 0);
        let reason = (failed || refused.is_some()).then_some(why);
        let payload = Told {
            state: receipt.state.as_str(),
            recipient: &recipient,
            node: receipt.node.as_str(),
            reason,
            recipients,
            refused,
        };
        self.say("RECEIPT", Some(&receipt.id), payload);
    }
}
