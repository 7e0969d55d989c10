//! The state machine of a group of users: commands, decisions, events, records.

mod port;
pub use port::{MemoryTables, Overlay, TableFault, Tables, Writes};
