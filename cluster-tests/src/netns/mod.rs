//! Clusters of real nodes in network namespaces of their own: what goes from node to node passes through a switch in this process that
//! loses and delays at will ([`switch`]), while clients reach every node over a link of its own. Nodes may have wrong clocks ([`clock`]).
//! Everything goes with the [`Cluster`], after a panic too, and what a run that was killed left behind goes with the next one's start.
//!
//! Clients connect from 10.210.*n*.1 to 10.210.*n*.2; nodes are 10.211.0.*n* to each other, with mutual TLS.

pub mod clock;
mod cluster;
pub mod faults;
pub mod partitions;
mod space;
pub mod switch;

pub use cluster::{Cluster, Options};
pub use space::lacking;
