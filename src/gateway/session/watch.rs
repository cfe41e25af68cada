//! A session's deadlines. One timer for all of them; it is set late rather than often: a sign of life only
//! notes the time, and the timer looks at the note when it fires.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::{End, Phase, Session, refused_end, silent_end};
use crate::gateway::auth::token;
use crate::gateway::carrier::Carrier;
use crate::rt::clock;
use crate::wire::close::{CloseCode, Code, Refusal};

/// Longest time that the timer sleeps: wall clocks jump and laptops sleep, and a token ends by the wall.
const LONGEST: u64 = 60_000_000;
/// How soon a full control lane is tried again.
const TRY_AGAIN: u64 = 50_000;

pub(super) struct Watch {
    opened: u64,
    heard: u64,
    /// When the ping that nothing has answered yet was sent.
    pinged: Option<u64>,
    /// When the token ends, by the monotonic clock.
    expires: Option<u64>,
    timer: Pin<Box<tokio::time::Sleep>>,
}

impl Watch {
    pub(super) fn new(now: u64) -> Watch {
        let timer = Box::pin(tokio::time::sleep(Duration::from_micros(LONGEST)));
        Watch { opened: now, heard: now, pinged: None, expires: None, timer }
    }

    /// Something came from the client. `true`: it answers a ping, and the next one is due earlier than the
    /// end that the timer was set to.
    pub(super) fn alive(&mut self, now: u64) -> bool {
        self.heard = now;
        self.pinged.take().is_some()
    }

    /// When something came last, in [`clock::micros`].
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    pub(super) fn age_ms(&self, now: u64) -> u64 {
        now.saturating_sub(self.opened) / 1000
    }

    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.as_mut().poll(cx)
    }

    fn sleep_until(&mut self, at: u64, now: u64) {
        let wait = at.saturating_sub(now).min(LONGEST);
        // The timer counts in milliseconds and rounds up; so do we, or it would fire once too early.
        self.timer.set(tokio::time::sleep(Duration::from_micros(wait.div_ceil(1000) * 1000)));
    }
}

impl<C: Carrier> Session<C> {
    /// Sets the timer anew: after anything that may have brought a deadline nearer.
    pub(super) fn rearm(&mut self) {
        let now = clock::micros();
        let phase_end = match self.phase {
            Phase::Unauthenticated => Some(self.watch.opened + micros(self.settings.auth_within)),
            Phase::Authenticated => Some(self.register_by()),
            Phase::Registered | Phase::Unregistered => None,
        };
        let attach = self.attaching.as_ref().map(|attaching| attaching.deadline);
        let again = self.again.then_some(now + TRY_AGAIN);
        let next = [phase_end, attach, self.watch.expires, self.next_ping(), again];
        let next = next.into_iter().flatten().min().unwrap_or(now + LONGEST);
        self.watch.sleep_until(next, now);
    }

    /// Notes when the identity ends: by the monotonic clock, which does not jump. The wall clock is looked at
    /// besides, as a laptop's monotonic one may stand while it sleeps.
    pub(super) fn watch_identity(&mut self) {
        let ends = self.identity.as_ref().and_then(|identity| identity.expires_at);
        let (now, wall_ms) = (clock::micros(), clock::wall_ms());
        self.watch.expires =
            ends.map(|at_ms| now.saturating_add(at_ms.saturating_sub(wall_ms).saturating_mul(1000)));
        self.rearm();
    }

    /// Does what is due.
    pub(super) async fn due(&mut self) -> Result<(), End> {
        let now = clock::micros();
        self.check_token(now)?;
        if self.phase == Phase::Unauthenticated
            && now >= self.watch.opened + micros(self.settings.auth_within)
        {
            let reason = format!("no AUTH within {:?}", self.settings.auth_within);
            return Err(silent_end(CloseCode::AuthTimeout, reason));
        }
        if self.phase == Phase::Authenticated && now >= self.register_by() {
            self.register_by_default().await?;
        }
        if self.attaching.as_ref().is_some_and(|attaching| now >= attaching.deadline) {
            self.attach_failed("the node did not answer in time").await?;
        }
        self.check_life(now)?;
        self.again = false;
        if !self.confirms.is_empty() && !self.unflushed {
            self.confirm();
        }
        self.tell_settled();
        self.rearm();
        Ok(())
    }

    /// The control lane is full: what did not get in is sent again soon.
    pub(super) fn try_again(&mut self) {
        if !std::mem::replace(&mut self.again, true) {
            self.rearm();
        }
    }

    fn check_token(&self, now: u64) -> Result<(), End> {
        let over = |identity: &crate::gateway::auth::Identity| {
            identity.expires_at.is_some_and(|at| at <= clock::wall_ms())
        };
        if self.watch.expires.is_some_and(|at| at <= now) || self.identity.as_ref().is_some_and(over) {
            return Err(refused_end(Refusal::new(Code::TokenExpired, "the token's time is over")));
        }
        // Noticed when the timer fires next: within a minute.
        if let (Some(verifier), Some(identity)) = (&self.verifier, &self.identity)
            && verifier.has_taken_back(identity)
        {
            return Err(refused_end(token::taken_back()));
        }
        let shown = self.identity.as_ref().and_then(|identity| identity.certificate.as_ref());
        if shown.is_some_and(|certificate| !certificate.holds()) {
            let message = "the client's certificate is no longer good here: it or its CA was taken back";
            return Err(refused_end(Refusal::new(Code::TokenInvalid, message)));
        }
        Ok(())
    }

    /// Pings a client that is silent, and gives one up that stays so. Nothing is asked of a client that
    /// we do not read ourselves.
    fn check_life(&mut self, now: u64) -> Result<(), End> {
        if !self.carrier.has_ping() || self.stalled.is_some() {
            return Ok(());
        }
        let heartbeat = u64::from(self.register.heartbeat_ms) * 1000;
        let unanswered = self
            .watch
            .pinged
            .is_some_and(|at| self.settings.ping_timeout.is_some_and(|within| now >= at + micros(within)));
        let silence = now.saturating_sub(self.watch.heard);
        if unanswered || silence >= 3 * heartbeat {
            let reason = format!("nothing came for {} ms", silence / 1000);
            return Err(silent_end(CloseCode::HeartbeatMissed, reason));
        }
        if self.watch.pinged.is_none() && silence >= self.ping_after() {
            self.watch.pinged = Some(now);
            let number = self.hands.next_ping();
            if self.carrier.ping(number).is_ok() {
                self.unflushed = true;
            }
        }
        Ok(())
    }

    fn next_ping(&self) -> Option<u64> {
        if !self.carrier.has_ping() {
            return None;
        }
        let give_up = self.watch.heard + u64::from(self.register.heartbeat_ms) * 3000;
        Some(match (self.watch.pinged, self.settings.ping_timeout) {
            (None, _) => self.watch.heard + self.ping_after(),
            (Some(at), Some(within)) => give_up.min(at + micros(within)),
            (Some(_), None) => give_up,
        })
    }

    fn ping_after(&self) -> u64 {
        micros(self.settings.ping_interval).min(u64::from(self.register.heartbeat_ms) * 1000)
    }

    fn register_by(&self) -> u64 {
        self.authenticated_at + micros(self.settings.register_within)
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
