//! Carries out one request: finds or takes the user's lease, stores bodies, proposes, waits for the local apply, reads; or
//! relays to the holder and tries again under the same request id.

mod auth;
mod body;
mod clock;
mod detour;
mod far;
mod follow;
mod holder;
mod lists;
mod machine;
mod missing;
mod moves;
mod node;
mod pace;
mod propose;
mod reads;
mod router;
mod support;
mod watch;

pub use auth::{Accounts, hash_password, is_known_scheme};
pub use body::{BodyExchange, Gate};
pub use clock::{boot_ms, unix_millis, unix_seconds};
pub use machine::{BodyEvents, ClusterMachine, Outcome, UsersMachine};
pub use moves::Copied;
pub use node::{Counters, Layout, Local, Place, Shard, TakeOvers};
pub use router::Router;
pub use support::{Support, next_boot, put_note};
pub use watch::WatchHub;
