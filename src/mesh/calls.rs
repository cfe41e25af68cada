//! Questions from node to node, relayed by those between: each has one answer or a time-out.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use super::{AskFailed, Mesh, Output, Time};
use crate::wire::frame::{Call, Frame, MAX_HOPS, Method, Reply};
use crate::wire::ids::{NodeName, Sequence};

/// Calls of this node that may wait for an answer at once.
const MAX_CALLS: usize = 1024;

/// Calls of this node that wait for their answer.
#[derive(Debug, Default)]
pub(super) struct Calls {
    waiting: BTreeMap<Sequence, (Time, NodeName)>,
}

impl Calls {
    pub(super) fn next_deadline(&self) -> Option<Time> {
        self.waiting.values().map(|(deadline, _)| *deadline).min()
    }
}

impl Mesh {
    pub(super) fn ask(
        &mut self,
        number: Sequence,
        to: Option<NodeName>,
        method: Method,
        body: Bytes,
        within: Duration,
    ) {
        let to = match to.or_else(|| self.topology.ca_holder().cloned()) {
            Some(to) => to,
            None => return self.answered(number, Err(AskFailed::NoHolder)),
        };
        if to != self.config.node && self.topology.announced(&to).is_none() {
            return self.answered(number, Err(AskFailed::UnknownNode(to)));
        }
        if self.calls.waiting.len() >= MAX_CALLS {
            return self.answered(number, Err(AskFailed::Busy));
        }
        let call = Call {
            from: self.config.node.clone(),
            incarnation: self.config.incarnation,
            number,
            to: to.clone(),
            method,
            route: Vec::new(),
        };
        if to != self.config.node && self.way_to(&to).is_none() {
            return self.answered(number, Err(AskFailed::NoRoute(to)));
        }
        self.calls.waiting.insert(number, (self.now.after(within), to));
        self.call(call, body);
    }

    /// A call for this node, or to be passed on.
    pub(super) fn call(&mut self, mut call: Call, body: Bytes) {
        // It grows on its way: one that fills a frame would cost an honest link.
        call.route.truncate(usize::from(MAX_HOPS));
        call.route.push(self.config.node.clone());
        if call.to == self.config.node {
            return self.outputs.push_back(Output::Asked(call, body));
        }
        if call.route.len() > usize::from(MAX_HOPS) {
            let why = format!("the call went through {MAX_HOPS} nodes without reaching {}", call.to);
            return self.answer(call, Err(why));
        }
        match self.way_to(&call.to) {
            Some(link) => self.send(link, Frame::Call(call, body)),
            None => {
                let why = format!("node {} has no way to {}", self.config.node, call.to);
                self.answer(call, Err(why));
            }
        }
    }

    /// The driver's answer, or a refusal on the way, goes back.
    pub(super) fn answer(&mut self, call: Call, result: Result<Bytes, String>) {
        let (ok, body) = match result {
            Ok(body) => (true, body),
            Err(why) => (false, Bytes::from(why)),
        };
        let reply = Reply {
            to: call.from,
            incarnation: call.incarnation,
            number: call.number,
            from: self.config.node.clone(),
            ok,
            route: call.route,
            hops_left: MAX_HOPS,
        };
        self.pass_reply(reply, body);
    }

    pub(super) fn reply(&mut self, mut reply: Reply, body: Bytes) {
        reply.route.truncate(2 * usize::from(MAX_HOPS));
        reply.route.push(self.config.node.clone());
        self.pass_reply(reply, body);
    }

    fn pass_reply(&mut self, reply: Reply, body: Bytes) {
        if reply.to != self.config.node {
            let to = reply.to.clone();
            return self
                .pass_on(&to, reply.hops_left, |hops_left| Frame::Reply(Reply { hops_left, ..reply }, body));
        }
        // An answer to an earlier life's call, or one that came too late, answers nobody.
        if reply.incarnation != self.config.incarnation || self.calls.waiting.remove(&reply.number).is_none()
        {
            return;
        }
        let result = if reply.ok {
            Ok((reply.route, body))
        } else {
            Err(AskFailed::Refused(reply.from, String::from_utf8_lossy(&body).into_owned()))
        };
        self.answered(reply.number, result);
    }

    pub(super) fn expire_calls(&mut self) {
        let now = self.now;
        let late = self.calls.waiting.iter().filter(|(_, (deadline, _))| *deadline <= now);
        let late: Vec<(Sequence, NodeName)> = late.map(|(number, (_, to))| (*number, to.clone())).collect();
        for (number, to) in late {
            self.calls.waiting.remove(&number);
            self.answered(number, Err(AskFailed::TimedOut(to)));
        }
    }

    fn answered(&mut self, number: Sequence, result: Result<(Vec<NodeName>, Bytes), AskFailed>) {
        self.outputs.push_back(Output::Answered(number, result));
    }
}
