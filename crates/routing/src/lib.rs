//! Pure policy: who supports whom, and where a request is served. No clock: times are milliseconds of the caller's
//! boot-time clock (which counts suspends), given as values.

pub mod alone;
mod clock_rate;
mod follow;
mod lead;
mod placement;
mod promise;
mod route;
mod spread;
mod steps;
mod window;

pub use clock_rate::{ClockRate, Rate, Reading};
pub use follow::{Uses, Wish};
pub use lead::{Leadership, lead};
pub use placement::{Change, Row, Seat, foresee, plan};
pub use promise::{Granted, OwnSupport, Promises, VoterList, Withdrawn, withdrawn_by_many};
pub use route::{Facts, OwnerFacts, Step, decide, heir};
pub use spread::{HeldUser, spread};
pub use steps::{Led, Obstacle, Step as CopyStep, Word, step};
pub use window::Window;
