//! Signs of life. Who has nothing else to say says on its link that it lives, and is answered there: so both sides hear of each
//! other with three packets, and HTTP/2, which would ask for the same, has no need to. It still asks those of earlier versions,
//! who answer nothing.
//!
//! All links of a core count the same beats, so that an idle core is woken for all of them at once. Beats are counted, not read
//! from a clock: a core that stood still itself finds what came meanwhile and does not take it for silence.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use super::outbox::{LinkStats, Outbox};
use crate::core::signal::Event;

/// In the time of [`super::PeerSettings::silence`].
const BEATS: u32 = 8;

/// Without a batch, after which an empty one says that the sender lives.
const UNSAID: u32 = 3;

/// Without an answer, after which the next batch is answered; less than between two signs of life, however the beats of both
/// sides fall.
const UNANSWERED: u64 = 2;

/// Without a byte, after which who spoke is down: that takes up to one more. One more than [`BEATS`], so that a sign of life may
/// be as late as if it was said, and listened for, twice as often.
const SILENT: u32 = 9;

/// A caller asks by HTTP/2 for a sign of life when nothing has come for so long: later than an answer does come on an idle link.
/// Together with the patience with that, half of the silence, a callee is missed after 1.1 to 1.9 of 2 s.
pub(super) fn unanswered(silence: Duration) -> Duration {
    silence * 7 / 16
}

/// The same of who is called, to whom signs of life come each three beats: a core that stood still may be late with them. What is
/// left of the silence is the patience with that.
pub(super) fn unheard(silence: Duration) -> Duration {
    silence * 5 / 8
}

/// The beats of one core, for ever.
pub(super) async fn beat(beats: &Event, silence: Duration) -> Infallible {
    loop {
        glommio::timer::sleep(silence / BEATS).await;
        beats.raise();
    }
}

/// Says over a link that this side lives, for ever.
pub(super) async fn say(outbox: &Outbox, stats: &LinkStats, beats: &Event) -> Infallible {
    let (mut seen, mut beat, mut unsaid) = (stats.batches_sent.get(), beats.raised(), 0);
    loop {
        beat = beats.beyond(beat).await;
        let sent = stats.batches_sent.get();
        unsaid = if sent > seen { 0 } else { unsaid + 1 };
        seen = seen.max(sent);
        if unsaid >= UNSAID {
            outbox.say_alive();
            // What goes now is this one.
            (seen, unsaid) = (sent + 1, 0);
        }
    }
}

/// How long a listener has heard nothing.
pub(super) struct Silence {
    arrived_bytes: Rc<Cell<u64>>,
    seen_bytes: u64,
    beat: u64,
    quiet: u32,
}

impl Silence {
    /// Begins with what arrives from now on.
    pub(super) fn new(arrived_bytes: Rc<Cell<u64>>, beats: &Event) -> Silence {
        Silence {
            seen_bytes: arrived_bytes.get(),
            arrived_bytes,
            beat: beats.raised(),
            quiet: 0,
        }
    }

    /// Resolves when nothing has arrived for so long. May be dropped and called again.
    pub(super) async fn falls(&mut self, beats: &Event) {
        while self.quiet < SILENT {
            self.beat = beats.beyond(self.beat).await;
            let arrived = self.arrived_bytes.get();
            self.quiet = if arrived == self.seen_bytes {
                self.quiet + 1
            } else {
                0
            };
            self.seen_bytes = arrived;
        }
    }
}

/// When a listener answered last.
pub(super) struct Answered(u64);

impl Answered {
    /// With the introduction.
    pub(super) fn new(beats: &Event) -> Answered {
        Answered(beats.raised())
    }

    /// Whether what has come is to be answered now.
    pub(super) fn is_due_again(&mut self, beats: &Event) -> bool {
        let now = beats.raised();
        let is_due = now >= self.0 + UNANSWERED;
        if is_due {
            self.0 = now;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn who_says_nothing_for_nine_beats_in_a_row_is_down() {
        let (beats, arrived) = (Event::default(), Rc::new(Cell::new(7)));
        let mut silence = Silence::new(arrived.clone(), &beats);
        let mut falls = |said: bool| {
            arrived.set(arrived.get() + u64::from(said));
            beats.raise();
            block_on(poll_once(silence.falls(&beats))).is_some()
        };
        for _ in 0..100 {
            assert!(!falls(true));
            assert!((1..SILENT).all(|_| !falls(false)));
        }
        assert!(falls(false));
    }

    #[test]
    fn a_core_that_stood_still_has_counted_one_beat() {
        let (beats, arrived) = (Event::default(), Rc::new(Cell::new(0)));
        let mut silence = Silence::new(arrived, &beats);
        (0..SILENT * 2).for_each(|_| beats.raise());
        let mut falls = || block_on(poll_once(silence.falls(&beats))).is_some();
        assert!(!falls());
    }

    #[test]
    fn each_sign_of_life_is_answered_and_not_each_batch() {
        let beats = Event::default();
        let mut answered = Answered::new(&beats);
        assert!(!answered.is_due_again(&beats));
        for _ in 0..9 {
            (0..UNANSWERED).for_each(|_| beats.raise());
            assert!(answered.is_due_again(&beats));
            assert!(!answered.is_due_again(&beats), "the next batch");
        }
        // They come further apart than answers do, by a beat for how the beats of both sides fall.
        assert!(u64::from(UNSAID) > UNANSWERED);
    }
}
