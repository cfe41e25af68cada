//! What comes to a session from its node.

use serde::Serialize;

use super::reply::AgentsPayload;
use super::{End, Phase, Session};
use crate::gateway::carrier::Carrier;
use crate::gateway::hub::{Delivery, Notice};
use crate::link;
use crate::rt::clock;
use crate::rt::queue::Refused;
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::State;
use crate::wire::frame::{Frame, MAX_HOPS, Receipt};
use crate::wire::ids::NodeName;

/// What this release serves of the reserved parts of the protocol.
const FEATURES: [&str; 1] = ["receipts:delivered"];

#[derive(Serialize)]
struct Registered<'a> {
    agent: &'a str,
    namespace: &'a str,
    node: &'a str,
    session: &'a str,
    heartbeat_ms: u32,
    window: u16,
    features: [&'static str; 1],
}

#[derive(Serialize)]
struct Told<'a> {
    state: &'static str,
    recipient: &'a str,
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<C: Carrier> Session<C> {
    pub(super) async fn notice(&mut self, notice: Notice) -> Result<(), End> {
        match notice {
            Notice::Attached { link, node } => self.attached(link, node).await,
            Notice::Down => {
                self.link = None;
                self.fail_asked("the link to the node broke before it answered");
                self.attach_failed("there is no link to a node at the moment").await
            }
            Notice::Told(receipt) => {
                self.told(receipt);
                Ok(())
            }
            Notice::Agents(number, list) => {
                if let Some(at) = self.asked.iter().position(|(asked, _)| *asked == number)
                    && let Some((_, id)) = self.asked.remove(at)
                {
                    let payload = AgentsPayload::new(list, self.settings.max_frame);
                    self.say("AGENTS", id.as_ref(), payload);
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
        let Delivery { deliver, payload, .. } = delivery;
        let head = &deliver.head;
        if let (Some(to), Some((_, node))) = (&deliver.confirm, &self.link) {
            self.confirms.push_back(Receipt {
                to: to.clone(),
                sender: head.from.clone(),
                id: head.id.clone(),
                recipient: agent.clone(),
                node: node.clone(),
                state: State::Delivered,
                refusal: None,
                hops_left: MAX_HOPS,
            });
        }
        self.sent += 1;
        self.unflushed = true;
        self.carrier.send(payload).map_err(|lost| super::lost_end(lost.0))
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
                    // The timer tries again.
                    self.confirms.push_front(receipt);
                    return;
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
            features: FEATURES,
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

    fn fail_asked(&mut self, why: &str) {
        let refusal = Refusal::new(Code::Unavailable, why);
        for (_, id) in std::mem::take(&mut self.asked) {
            self.error(id.as_ref(), Some("AGENTS".into()), &refusal);
        }
    }

    fn told(&mut self, receipt: Receipt) {
        self.measured.told(&receipt.id, receipt.state, clock::micros());
        if receipt.state == State::Dead {
            let unknown = || Refusal::new(Code::Internal, "the message could not be delivered");
            let refusal = receipt.refusal.unwrap_or_else(unknown);
            self.error(Some(&receipt.id), None, &refusal);
            return;
        }
        let recipient = self.shown(&receipt.recipient);
        let reason = receipt.refusal.as_ref().map(|refusal| refusal.message.as_str());
        let payload = Told {
            state: receipt.state.as_str(),
            recipient: &recipient,
            node: receipt.node.as_str(),
            reason,
        };
        self.say("RECEIPT", Some(&receipt.id), payload);
    }
}
