//! Latencies of what was acknowledged, by phase of a run.

use super::pauses::percentile;
use crate::history::{History, Kind};
use serde_json::{Value, json};

/// What one phase cost.
#[derive(Clone, Debug, Default)]
pub struct Phase {
    /// Its name.
    pub name: String,
    /// Times from begin to acknowledgement of all operations that began in it, nanoseconds, sorted.
    pub times: Vec<u64>,
}

impl Phase {
    /// The time, ms, within which this share was acknowledged.
    pub fn ms(&self, share: f64) -> u64 {
        percentile(&self.times, share) / 1_000_000
    }

    /// As a document.
    pub fn to_json(&self) -> Value {
        json!({ "phase": self.name, "acknowledged": self.times.len(), "p50_ms": self.ms(0.5), "p99_ms": self.ms(0.99), "max_ms": self.ms(1.0) })
    }
}

/// Measures the phases of a history, each from its entry `phase` to the next. Phases of one name are one.
pub fn by_phase(history: &History) -> Vec<Phase> {
    let marks: Vec<_> = history.faults().filter(|op| op.f == "phase").collect();
    let calls = history.calls();
    let mut phases: Vec<Phase> = Vec::new();
    for (at, mark) in marks.iter().enumerate() {
        let until = marks.get(at + 1).map_or(u64::MAX, |next| next.time);
        let within = calls.iter().filter(|c| c.outcome == Kind::Ok && c.f != "scan" && (mark.time..until).contains(&c.start));
        let times = within.map(|c| c.end - c.start);
        let name = mark.value["name"].as_str().unwrap_or_default();
        match phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.times.extend(times),
            None => phases.push(Phase { name: name.to_owned(), times: times.collect() }),
        }
    }
    for phase in &mut phases {
        phase.times.sort_unstable();
    }
    phases
}

#[cfg(test)]
mod tests {
    use super::super::planted::Story;
    use super::*;

    #[test]
    fn operations_belong_to_the_phase_they_began_in() {
        let mut story = Story::new();
        story.fault_with("phase", "", json!({ "name": "calm" })).append("a", 1).begin(7, "append", json!({ "id": "b" }));
        story.fault_with("phase", "", json!({ "name": "lossy" })).wait(500).end(7, Kind::Ok, "append", json!({ "id": "b", "uid": 2 }));
        story.append("c", 3);
        let phases = by_phase(&story.done());
        assert_eq!((phases[0].times.len(), phases[1].times.len()), (2, 1));
        assert!(phases[0].ms(1.0) >= 500 && phases[1].ms(1.0) < 10, "{phases:?}");
    }
}
