//! What the command line and other nodes ask that the node task alone can't answer: invitations,
//! revocations, renewals, enrolments, and sessions over the admin socket.

use bytes::Bytes;

use super::authority::{CaDesk, Whom};
use super::renew;
use crate::admin::protocol::{Answer, Attached, Invited, Renewed, Revoked, write};
use crate::admin::socket::Ask;
use crate::gateway::hub::HubHandle;
use crate::gateway::native;
use crate::identity::invites::Invitation;
use crate::node::{self, Question};
use crate::rt::{clock, queue, tasks};
use crate::wire::frame::Method;
use crate::wire::ids::{AgentAddr, AgentName, DEFAULT_NAMESPACE, Namespace, NodeName};

/// Sessions over the admin socket at once.
const MAX_SESSIONS: usize = 64;

/// What the task needs.
pub(super) struct Asks {
    /// This node.
    pub me: NodeName,
    /// To spread a revocation list, and to answer other nodes.
    pub node: node::Handle,
    /// For sessions of tools on this machine.
    pub hub: HubHandle,
    /// For `cert renew`.
    pub renewer: renew::Handle,
}

impl Asks {
    /// Starts the task; `desk` is there on the holder of the CA.
    pub(super) fn start(
        self,
        desk: Option<CaDesk>,
        mut questions: queue::Receiver<Question>,
        mut asks: queue::Receiver<Ask>,
    ) -> tasks::Task {
        tasks::spawn("daemon.asks", async move {
            let (mut desk, mut sessions) = (desk, tasks::Group::default());
            loop {
                tokio::select! {
                    Some(question) = questions.recv() => self.question(question, desk.as_mut()).await,
                    ask = asks.recv() => match ask {
                        Some(ask) => self.ask(ask, desk.as_mut(), &mut sessions).await,
                        None => return,
                    },
                }
            }
        })
    }

    /// From another node, or from this one: only the holder is asked.
    async fn question(&self, question: Question, desk: Option<&mut CaDesk>) {
        let Question { call, body } = question;
        let now = clock::wall().into();
        let answer = match (desk, call.method) {
            (Some(desk), Method::Enrol) => desk.answer_enrol(&body, now),
            (Some(desk), Method::Renew) => desk.answer_renew(&body, now),
            (None, _) => Err("this node does not hold the CA".to_owned()),
            (_, method) => Err(format!("{method:?} is not answered here")),
        };
        match &answer {
            Ok(_) => tracing::info!(from = %call.from, method = ?call.method, "certificates signed"),
            Err(why) => tracing::warn!(from = %call.from, method = ?call.method, why, "certificates refused"),
        }
        // The node task is gone only when the process stops.
        let _ = self.node.answer(call, answer.map(Bytes::from)).await;
    }

    async fn ask(&self, ask: Ask, desk: Option<&mut CaDesk>, sessions: &mut tasks::Group) {
        let not_here = || {
            "this node does not hold the CA: run the command on the machine where `trishula init` was run"
                .to_owned()
        };
        // Whoever asked may have gone: an answer that nobody takes is dropped.
        match ask {
            Ask::Invite { name, expires, addresses, again, public, answer } => {
                let invited = match desk {
                    Some(desk) => {
                        let expires = time::OffsetDateTime::from(clock::wall()) + expires;
                        invite(desk, Invitation { name, expires, addresses, public }, again)
                    }
                    None => Err(not_here()),
                };
                let _ = answer.send(invited);
            }
            Ask::Revoke { whom, reason, answer } => {
                let revoked = match desk {
                    Some(desk) => self.revoke(desk, &whom, &reason).await,
                    None => Err(not_here()),
                };
                let _ = answer.send(revoked);
            }
            Ask::Renew { answer } => {
                let renewer = self.renewer.clone();
                // The holder may be this very task: it must be free to answer.
                sessions.spawn("daemon.renew-now", async move {
                    let renewed = renewer.renew_now().await;
                    let _ = answer
                        .send(renewed.map(|days_left| Renewed { days_left }).map_err(|e| e.to_string()));
                });
            }
            Ask::Attach { agent, stream } => self.attach(agent, stream, sessions).await,
        }
    }

    async fn revoke(&self, desk: &mut CaDesk, whom: &str, reason: &str) -> Result<Revoked, String> {
        let whom: Whom = whom.parse()?;
        let list = desk.revoke(&whom, reason, clock::wall().into()).map_err(|e| e.to_string())?;
        let (number, entries) = (list.number(), list.entries().len());
        let der = Bytes::copy_from_slice(list.der());
        self.node.set_revocations(number, der).await.map_err(|e| e.to_string())?;
        Ok(Revoked { number, entries })
    }

    /// A tool on this machine speaks as an agent of it: whoever may open the socket is the operator.
    async fn attach(
        &self,
        agent: Option<AgentName>,
        mut stream: tokio::net::UnixStream,
        sessions: &mut tasks::Group,
    ) {
        let own = || AgentName::new(&format!("{}.cli", self.me));
        let agent = match agent
            .map_or_else(own, Ok)
            .and_then(|name| Ok(AgentAddr::new(Namespace::new(DEFAULT_NAMESPACE)?, name)))
        {
            Ok(agent) if sessions.len() < MAX_SESSIONS => agent,
            Ok(_) => {
                let _ =
                    write(&mut stream, &Answer::Error(format!("{MAX_SESSIONS} sessions are open already")))
                        .await;
                return;
            }
            Err(e) => {
                let _ = write(&mut stream, &Answer::Error(e.to_string())).await;
                return;
            }
        };
        let hub = self.hub.clone();
        sessions.spawn("admin.session", async move {
            let attached = serde_json::json!(Attached { agent: agent.to_string() });
            if write(&mut stream, &Answer::Ok(attached)).await.is_ok() {
                native::serve_local(stream, agent, &hub).await;
            }
        });
    }
}

fn invite(desk: &mut CaDesk, invitation: Invitation, again: bool) -> Result<Invited, String> {
    let ticket = desk.invite(invitation, again, clock::wall().into());
    ticket.map(|ticket| Invited { ticket }).map_err(|e| e.to_string())
}
