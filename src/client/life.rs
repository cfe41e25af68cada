//! Whether a node still says anything, and whether the connection to it has survived when this machine slept.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use crate::rt::clock;

/// A client with several nodes asks the one that was silent for so long for a sign of life …
const ASK_AFTER: Duration = Duration::from_millis(1_500);
/// … and leaves it after this, as edges do: a node that only has no processor for a second or two is worth waiting for. QUIC
/// tells earlier where the way is dead (`Connection::silent`).
const PATIENCE: Duration = Duration::from_secs(3);
/// A connection that is doubted and says nothing for so long is left: with that, and what it takes to notice the waking and to
/// dial, a client is back two seconds after it woke.
const DOUBTS_FOR: Duration = Duration::from_secs(1);
/// A look that comes so late means that this process stood still: what came meanwhile was not read yet.
const LATE: Duration = Duration::from_millis(1_500);

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    Fine,
    /// Ask for a sign of life.
    Ask,
    /// The node hangs.
    Gone,
    /// The connection has not survived.
    Dead,
}

/// Notes when something came last.
#[derive(Debug)]
pub(super) struct Life {
    /// Where there is no other node to go to, nothing is looked at unless the connection is doubted.
    watched: bool,
    /// Or when it was found that this process stood still.
    heard: Instant,
    asked: bool,
    /// Until this question is answered.
    doubted: Option<String>,
}

impl Life {
    pub(super) fn new(watched: bool) -> Life {
        Life { watched, heard: clock::now(), asked: false, doubted: None }
    }

    /// Something came, perhaps an answer; `true`: it is the one that ends the doubt.
    pub(super) fn heard(&mut self, answers: Option<&str>) -> bool {
        (self.heard, self.asked) = (clock::now(), false);
        self.doubted.take_if(|question| answers == Some(question.as_str())).is_some()
    }

    /// This machine slept, or is on another network. What came before may lie unread in front of us; so nothing but the answer
    /// to this question shows that the connection lives.
    pub(super) fn doubt(&mut self, question: String) {
        (self.heard, self.doubted) = (clock::now(), Some(question));
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.doubted.is_some()
    }

    /// Waits until it is time to look, or for another moment, where that is earlier.
    pub(super) fn due(&self, or: Option<Instant>) -> impl Future<Output = ()> + use<> {
        let or = or.filter(|at| *at > clock::now());
        let next = [self.next_look(), or].into_iter().flatten().min();
        async move {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    fn next_look(&self) -> Option<Instant> {
        let wait = match self {
            Life { doubted: Some(_), .. } => DOUBTS_FOR,
            Life { watched: false, .. } => return None,
            Life { asked: true, .. } => PATIENCE,
            Life { asked: false, .. } => ASK_AFTER,
        };
        Some(self.heard + wait)
    }

    pub(super) fn look(&mut self) -> Sign {
        let now = clock::now();
        let Some(next) = self.next_look().filter(|next| *next <= now) else { return Sign::Fine };
        let late = now - next >= LATE;
        match (self.is_doubted(), late) {
            (true, true) => {
                self.heard = now;
                Sign::Fine
            }
            (true, false) => Sign::Dead,
            (false, true) => {
                (self.heard, self.asked) = (now - ASK_AFTER, true);
                Sign::Ask
            }
            (false, false) => match std::mem::replace(&mut self.asked, true) {
                true => Sign::Gone,
                false => Sign::Ask,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    /// What the next looks say, each when it is due.
    async fn looks<const N: usize>(life: &mut Life) -> [Sign; N] {
        let mut signs = [Sign::Fine; N];
        for sign in &mut signs {
            life.due(None).await;
            *sign = life.look();
        }
        signs
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_several_nodes_is_asked_and_left_and_an_only_one_is_neither() {
        // covers T09, Q02
        let (mut life, began) = (Life::new(true), clock::now());
        assert_eq!(looks(&mut life).await, [Sign::Ask, Sign::Gone]);
        assert!(clock::since(began) >= PATIENCE && clock::since(began) < PATIENCE + 9 * MOMENT);
        assert!(!life.heard(None));
        assert_eq!(looks(&mut life).await, [Sign::Ask]);
        let only = Life::new(false);
        assert!(tokio::time::timeout(9 * PATIENCE, only.due(None)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_sleep_a_connection_is_left_unless_the_answer_comes_whatever_else_does() {
        // covers T09
        for watched in [false, true] {
            let mut life = Life::new(watched);
            life.doubt("q-1".into());
            assert_eq!(life.look(), Sign::Fine);
            let began = clock::now();
            assert_eq!(looks(&mut life).await, [Sign::Dead]);
            assert!(clock::since(began) < DOUBTS_FOR + 9 * MOMENT);

            life.doubt("q-2".into());
            advance(DOUBTS_FOR / 2).await;
            // What was on its way before, an answer to an older question, and what is said unasked.
            for answers in [None, Some("q-1"), Some("m-1")] {
                assert!(!life.heard(answers));
            }
            advance(DOUBTS_FOR - MOMENT).await;
            assert_eq!(life.look(), Sign::Fine, "while something comes, the answer may be behind it");
            advance(2 * MOMENT).await;
            assert_eq!(life.look(), Sign::Dead);

            life.doubt("q-3".into());
            advance(DOUBTS_FOR / 2).await;
            assert!(life.heard(Some("q-3")));
            advance(DOUBTS_FOR).await;
            assert_eq!(life.look(), Sign::Fine);
            assert!(!life.heard(Some("q-3")), "it was told once");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stood_still_itself_gives_others_their_time_anew() {
        // covers T09
        let mut life = Life::new(true);
        advance(ASK_AFTER + LATE).await;
        assert_eq!(life.look(), Sign::Ask);
        advance(PATIENCE - ASK_AFTER - MOMENT).await;
        assert_eq!(life.look(), Sign::Fine);
        assert_eq!(looks(&mut life).await, [Sign::Gone]);

        life.doubt("q-1".into());
        advance(DOUBTS_FOR + LATE).await;
        assert_eq!(life.look(), Sign::Fine);
        advance(DOUBTS_FOR - MOMENT).await;
        assert!(life.heard(Some("q-1")));
    }
}
