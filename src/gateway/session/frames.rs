//! What each frame of a client does.

use bytes::Bytes;
use serde::Serialize;

use super::watch::micros;
use super::{Asked, Attaching, End, MAX_BAD_IN_A_ROW, Phase, Session, refused_end, silent_end, stopping};
use crate::gateway::auth::Identity;
use crate::gateway::carrier::Carrier;
use crate::rt::clock;
use crate::rt::queue::Refused;
use crate::wire::client::{self, AckMode, ClientFrame, Parsed, Register, Speaker};
use crate::wire::close::{CloseCode, Code, Refusal};
use crate::wire::envelope::Head;
use crate::wire::frame::{Attach, Frame};
use crate::wire::ids::{AgentAddr, MessageId, Sequence, SessionNo};

/// AGENTS and QUERY that may wait for an answer at once.
const MAX_ASKED: usize = 64;

#[derive(Serialize)]
struct Authenticated<'a> {
    agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    namespace: &'a str,
    expires_at: Option<u64>,
    permissions: &'a [String],
}

#[derive(Serialize)]
struct Interval {
    interval_ms: u32,
}

#[derive(Serialize)]
struct Unregistered<'a> {
    agent: Option<&'a str>,
}

impl<C: Carrier> Session<C> {
    /// Reads one frame and does what it says.
    pub(super) async fn frame(&mut self, text: Bytes) -> Result<(), End> {
        self.received += 1;
        let own = self.agent.clone().or_else(|| self.default_agent());
        let agent = if self.phase == Phase::Unregistered { None } else { own.as_ref() };
        let speaker = Speaker {
            agent,
            namespace: &self.namespace,
            max_frame: self.settings.max_frame,
            receipts: self.register.receipt_wish(),
            copies: self.register.copies,
        };
        let stamp = || (super::reply::uuid(), clock::wall_ms());
        let parsed = match client::parse(&text, speaker, stamp) {
            Ok(parsed) => parsed,
            Err(refused) if self.phase == Phase::Unauthenticated => {
                return Err(self.unauthenticated(refused.id.as_ref(), refused.kind));
            }
            Err(refused) => return self.refused(refused.id.as_ref(), refused.kind, refused.refusal),
        };
        self.bad_in_a_row = 0;
        match self.phase {
            Phase::Unauthenticated if !matches!(parsed.frame, ClientFrame::Auth { .. }) => {
                return Err(self.unauthenticated(parsed.id.as_ref(), Some(parsed.frame.word())));
            }
            Phase::Authenticated
                if !matches!(parsed.frame, ClientFrame::Auth { .. } | ClientFrame::Register(_)) =>
            {
                Box::pin(self.register_by_default()).await?;
            }
            _ => {}
        }
        self.act(parsed).await
    }

    /// Answers a refused frame. Too many in a row, and the client is one that needs mending.
    pub(super) fn refused(
        &mut self,
        id: Option<&MessageId>,
        frame: Option<String>,
        refusal: Refusal,
    ) -> Result<(), End> {
        let code = refusal.code;
        if code == Code::TooLarge {
            return Err(refused_end(refusal));
        }
        self.error(id, frame, &refusal);
        if matches!(code, Code::BadFrame | Code::UnknownType | Code::BadName | Code::TooDeep) {
            self.bad_in_a_row += 1;
            if self.bad_in_a_row >= MAX_BAD_IN_A_ROW {
                let reason = format!("{MAX_BAD_IN_A_ROW} refused frames in a row; the last: {refusal}");
                return Err(silent_end(CloseCode::TooManyErrors, reason));
            }
        }
        Ok(())
    }

    /// Does what a frame says. One that needs the node while a registration is under way is held.
    pub(super) async fn act(&mut self, parsed: Parsed) -> Result<(), End> {
        if self.attaching.is_some() && parsed.frame.needs_node() {
            if let Some(attaching) = &mut self.attaching {
                attaching.held = Some(parsed);
            }
            return Ok(());
        }
        let word = parsed.frame.word();
        let id = parsed.id;
        let done = match parsed.frame {
            ClientFrame::Message(head, _) if self.acknowledged(&head) => Ok(()),
            ClientFrame::Message(head, payload) => self.submit(*head, payload),
            ClientFrame::Heartbeat => {
                let interval_ms = self.register.heartbeat_ms;
                self.say("HEARTBEAT", id.as_ref(), Interval { interval_ms });
                Ok(())
            }
            ClientFrame::Auth { token } => self.auth(id.as_ref(), &token)?,
            ClientFrame::Register(register) => return Box::pin(self.register(id, register)).await,
            ClientFrame::Unregister => return Box::pin(self.unregister(id.as_ref())).await,
            ClientFrame::Agents => self.ask(id.clone(), "AGENTS", Frame::AskAgents),
            ClientFrame::Query { from, message } => match from.or_else(|| self.agent.clone()) {
                Some(from) => {
                    self.ask(id.clone(), "QUERY", |no, number| Frame::Query(no, number, from, message))
                }
                None => Err(Refusal::new(Code::NotRegistered, "QUERY needs a registered agent to ask")),
            },
            ClientFrame::Nack { to, message, reason, requeue } => self.nack(&to, &message, reason, requeue),
            ClientFrame::Room(room, frame) => return self.room(id, room, frame).await,
        };
        match done {
            Ok(()) => Ok(()),
            Err(refusal) => self.refused(id.as_ref(), Some(word), refusal),
        }
    }

    fn unauthenticated(&mut self, id: Option<&MessageId>, frame: Option<String>) -> End {
        let refusal = Refusal::new(Code::Unauthenticated, "the first frame must be AUTH with a token");
        self.error(id, frame, &refusal);
        silent_end(CloseCode::Unauthorized, refusal.message)
    }

    /// The first token, or a fresh one. `Err(End)`: the first was refused.
    fn auth(&mut self, id: Option<&MessageId>, token: &str) -> Result<Result<(), Refusal>, End> {
        // Where no token is read, whoever got here is who the connection says.
        let Some(verifier) = self.verifier.clone() else {
            self.say_authenticated(id);
            return Ok(Ok(()));
        };
        let identity = match verifier.verify(token, clock::wall_ms()) {
            Ok(identity) => identity,
            Err(refusal) if self.phase == Phase::Unauthenticated => {
                self.error(id, Some("AUTH".into()), &refusal);
                return Err(silent_end(CloseCode::Unauthorized, refusal.message));
            }
            Err(refusal) => return Ok(Err(refusal)),
        };
        if let Some(agent) = &self.agent
            && !identity.may_be(&agent.name)
        {
            let message = format!("the new token is not for this session's agent, {agent}");
            return Ok(Err(Refusal::new(Code::Forbidden, message)));
        }
        self.authenticated(identity);
        self.say_authenticated(id);
        Ok(Ok(()))
    }

    fn authenticated(&mut self, identity: Identity) {
        self.identity = Some(identity);
        if self.phase == Phase::Unauthenticated {
            self.phase = Phase::Authenticated;
            self.authenticated_at = clock::micros();
        }
        self.watch_identity();
    }

    fn say_authenticated(&mut self, id: Option<&MessageId>) {
        let Some(identity) = self.identity.clone() else { return };
        let payload = Authenticated {
            agent: identity.agent.as_ref().map(|agent| agent.as_str()),
            user: identity.user.as_deref(),
            namespace: identity.namespace.as_str(),
            expires_at: identity.expires_at,
            permissions: &identity.permissions,
        };
        // Before it is registered, a session is spoken to by its token's name.
        let registered = self.agent.clone();
        self.agent = registered.clone().or_else(|| self.default_agent());
        self.say("AUTHENTICATED", id, payload);
        self.agent = registered;
    }

    fn default_agent(&self) -> Option<AgentAddr> {
        let agent = self.identity.as_ref()?.agent.clone()?;
        Some(AgentAddr::new(self.namespace.clone(), agent))
    }

    async fn register(&mut self, id: Option<MessageId>, register: Register) -> Result<(), End> {
        let agent = match self.registrable(&register) {
            Ok(agent) => agent,
            Err(refusal) => return self.refused(id.as_ref(), Some("REGISTER".into()), refusal),
        };
        self.register = register;
        self.attach(agent, Some(id)).await
    }

    fn registrable(&self, register: &Register) -> Result<AgentAddr, Refusal> {
        if register.ack == Some(AckMode::Auto) && !self.carrier.has_ping() {
            let message = "ack: auto needs a ping, which this connection does not have; say manual";
            return Err(Refusal::new(Code::Unsupported, message));
        }
        let Some(identity) = &self.identity else {
            return Err(Refusal::new(Code::NotRegistered, "the session has no identity"));
        };
        let Some(name) = register.agent.clone().or_else(|| identity.agent.clone()) else {
            return Err(Refusal::new(Code::NotRegistered, "agent: must be given, as there is no token"));
        };
        if !identity.may_be(&name) {
            let message = match identity.agent {
                Some(_) => format!("the token does not allow the agent {name}"),
                None => format!("without a token nobody is the agent {name} here; show one that is for it"),
            };
            return Err(Refusal::new(Code::Forbidden, message));
        }
        Ok(AgentAddr::new(self.namespace.clone(), name))
    }

    /// Registers the session as its token's agent; without one it stays nobody until it says who it is.
    pub(super) async fn register_by_default(&mut self) -> Result<(), End> {
        match self.default_agent() {
            Some(agent) => self.attach(agent, None).await,
            None => {
                self.phase = Phase::Unregistered;
                self.rearm();
                Ok(())
            }
        }
    }

    async fn attach(&mut self, agent: AgentAddr, answer: Option<Option<MessageId>>) -> Result<(), End> {
        let attach = Attach {
            session: self.seat.no,
            agent: agent.clone(),
            capabilities: self.register.capabilities.clone(),
            shared: self.register.shared,
            registered_ms: clock::wall_ms(),
            resumed: false,
            window: self.register.window,
            transient: self.register.transient,
        };
        self.phase = Phase::Registered;
        // What another agent had in its hands is taken back with its registration.
        if self.agent.replace(agent.clone()).is_some_and(|earlier| earlier != agent) {
            self.tell_settled();
            self.hands.forget();
        }
        // Messages must not overtake the registration, which travels in another lane.
        self.link = None;
        let deadline = clock::micros() + micros(self.settings.attach_within);
        self.attaching = Some(Attaching { deadline, answer, held: None });
        self.rearm();
        self.seat.attach(attach).await.map_err(|_| stopping())
    }

    async fn unregister(&mut self, id: Option<&MessageId>) -> Result<(), End> {
        if self.phase == Phase::Unregistered {
            let refusal = Refusal::new(Code::NotRegistered, "the session has no agent");
            return self.refused(id, Some("UNREGISTER".into()), refusal);
        }
        let agent = self.agent.as_ref().map(|agent| agent.name.clone());
        self.say("UNREGISTERED", id, Unregistered { agent: agent.as_ref().map(|agent| agent.as_str()) });
        self.phase = Phase::Unregistered;
        // What it has acknowledged a moment ago is told first: with the agent all else that it has dies.
        self.tell_settled();
        self.agent = None;
        self.link = None;
        self.hands.forget();
        // A registration that is still under way is not waited for any more.
        self.attaching = None;
        self.rearm();
        self.seat.detach(true).await.map_err(|_| stopping())
    }

    pub(super) fn ask(
        &mut self,
        id: Option<MessageId>,
        word: &'static str,
        question: impl FnOnce(SessionNo, Sequence) -> Frame,
    ) -> Result<(), Refusal> {
        if self.phase == Phase::Unregistered {
            return Err(Refusal::new(Code::NotRegistered, format!("{word} needs a registered agent to ask")));
        }
        if self.asked.len() >= MAX_ASKED {
            let message = format!("{MAX_ASKED} questions wait for their answers already");
            return Err(Refusal::new(Code::RateLimited, message));
        }
        let Some((link, _)) = &self.link else { return Err(no_node()) };
        self.asked_last += 1;
        let number = Sequence(self.asked_last);
        link.try_send(&question(self.seat.no, number)).map_err(|_| no_node())?;
        self.asked.push_back(Asked { number, id, word });
        Ok(())
    }

    /// Writes a message to the link. A lane without room stops the reading of this client's socket, and
    /// nothing else.
    fn submit(&mut self, head: Head, payload: Bytes) -> Result<(), Refusal> {
        if let Some(refusal) = head.refusal() {
            return Err(refusal);
        }
        self.may_publish(&head)?;
        let Some((link, _)) = &self.link else { return Err(no_node()) };
        self.submitted_at = self.watch.heard();
        self.measured.taken(&head, self.submitted_at);
        self.unanswered.sent(&head);
        let frame = Frame::Submit(self.seat.no, head, payload);
        match link.try_send(&frame) {
            Ok(()) => Ok(()),
            Err(Refused::Closed(())) => {
                if let Frame::Submit(_, head, _) = &frame {
                    self.unanswered.answered(&head.id);
                    self.measured.not_taken(&head.id);
                }
                Err(no_node())
            }
            Err(Refused::Full(())) => {
                let link = link.clone();
                self.stalled = Some(Box::pin(async move { link.send(&frame).await }));
                Ok(())
            }
        }
    }

    /// The link broke under a message that waited for room in it.
    pub(super) fn stalled_in_vain(&mut self) -> Result<(), End> {
        self.unlinked();
        let refusal = Refusal::new(Code::Unavailable, "the link to the node broke under the last message");
        self.refused(None, None, refusal)
    }
}

pub(super) fn no_node() -> Refusal {
    Refusal::new(Code::Unavailable, "there is no link to a node at the moment")
}
