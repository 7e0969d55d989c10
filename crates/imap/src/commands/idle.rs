//! IDLE (RFC 2177): a subscription from the session's mark. A holder that dies costs a pause, not the IDLE.

use crate::Session;
use crate::session::{Job, Outcome, Output};
use crate::wire::Event;
use parliament_mail_api::Request;

/// How often a client in IDLE is told that the connection lives, ms.
const STILL_HERE_MS: u64 = 2 * 60 * 1000;
/// How long after a failed look at the mailbox the next one is made, ms.
const RETRY_MS: u64 = 1_000;

/// An IDLE under way.
#[derive(Clone, Debug)]
pub(crate) struct Idle {
    tag: String,
    /// `+` was sent.
    started: bool,
    /// Something changed since the last look began.
    dirty: bool,
    /// When to look again after a failure.
    retry_ms: Option<u64>,
    still_here_ms: u64,
}

impl Idle {
    pub(crate) fn deadline_ms(&self) -> u64 {
        self.retry_ms.map_or(self.still_here_ms, |retry| retry.min(self.still_here_ms))
    }
}

impl Session {
    pub(crate) fn idle(&mut self, tag: String) {
        let still_here_ms = self.now.monotonic_ms + STILL_HERE_MS;
        let idle = Idle { tag, started: false, dirty: false, retry_ms: None, still_here_ms };
        if self.is_watchable() {
            // The subscription stands before the look, and the look before `+`: nothing falls between.
            self.start_watch();
            self.job = Job::Idle(idle);
            self.call(Request::Sync);
        } else {
            self.idle_start(idle);
        }
    }

    fn is_watchable(&self) -> bool {
        self.view.as_ref().is_some_and(|view| !view.gone)
    }

    fn idle_start(&mut self, mut idle: Idle) {
        if !idle.started {
            idle.started = true;
            self.go_on("idling");
        }
        self.tell_expunges();
        self.job = Job::Idle(idle);
    }

    /// Looks at the mailbox when something changed and no look is under way.
    fn idle_look(&mut self) {
        let (calling, watchable) = (self.is_calling(), self.is_watchable());
        let Job::Idle(idle) = &mut self.job else { return };
        if idle.dirty && !calling && watchable && idle.retry_ms.is_none() {
            idle.dirty = false;
            self.call(Request::Sync);
        }
    }

    pub(crate) fn on_changed(&mut self) {
        if let Job::Idle(idle) = &mut self.job {
            idle.dirty = true;
        }
        self.idle_look();
    }

    pub(crate) fn on_idle(&mut self, mut idle: Idle, outcome: Outcome) {
        if matches!(outcome, Outcome::Unserved) {
            idle.dirty = true;
            idle.retry_ms = Some(self.now.monotonic_ms + RETRY_MS);
        }
        self.idle_start(idle);
        self.idle_look();
    }

    pub(crate) fn idle_tick(&mut self) {
        let now = self.now.monotonic_ms;
        let Job::Idle(idle) = &mut self.job else { return };
        if idle.retry_ms.is_some_and(|retry| retry <= now) {
            idle.retry_ms = None;
        }
        if idle.still_here_ms <= now {
            idle.still_here_ms = now + STILL_HERE_MS;
            if idle.started {
                self.w.text("* OK Still here\r\n");
            }
        }
        self.idle_look();
    }

    pub(crate) fn next_idle_line(&mut self) -> bool {
        // DONE during a look is read when the look is over.
        if self.is_calling() {
            return false;
        }
        let Some(event) = self.framer.next(true) else { return false };
        let Job::Idle(idle) = std::mem::take(&mut self.job) else { return false };
        if self.view.is_some() {
            self.push(Output::Watch(None));
        }
        match event {
            Event::Line(line) if line.eq_ignore_ascii_case(b"DONE") => self.done(&idle.tag, format_args!("OK Idle terminated")),
            _ => self.tagged(&idle.tag, "BAD DONE expected"),
        }
        true
    }
}
