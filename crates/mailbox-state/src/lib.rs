//! The state machine of a group of users: commands, decisions, events, records.
//!
//! [`apply`] admits a command by fence, number and session; `decide` turns it into events or a rejection; only `evolve` writes.
//! All of it is pure: no clock, no randomness, no order that differs between replicas; time and hashes travel in the command.
//! [`view`] reads, and [`check`] is the list of invariants.

mod account;
mod acl;
mod append;
mod applied;
mod apply;
mod clock;
mod command;
mod copy_move;
mod counters;
mod decide;
mod dedupe;
mod event;
mod evolve;
mod expunge;
mod flags;
mod invariants;
mod keys;
mod keywords;
mod lease;
mod ledger;
mod list;
mod mailboxes;
mod messages;
mod metadata;
mod move_plan;
mod moves;
mod moving;
mod names;
mod pattern;
mod port;
mod quota;
mod records;
mod references;
mod rename;
mod session_record;
mod state_hash;
mod store;
mod vanished;
pub mod view;
mod well_formed;
mod work;

pub use applied::{Applied, Change, Owner, OwnerRecord, Refusal};
pub use apply::apply;
pub use command::{Acquire, Command, Evidence, NewMessage, Op, UserCommand, account_of, bodies_named};
pub use invariants::{check, check_sessions};
pub use move_plan::{MoveFacts, MoveNext, next_step};
pub use moves::{IMPORT_RECORDS_MAX, MoveCommand, MoveStep, MovedRecord, SWEEP_RECORDS, SessionMark};
pub use port::{MemoryTables, Overlay, Record, TableFault, Tables, Writes};
