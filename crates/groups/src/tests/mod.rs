//! Whole replicas in one process: journal and tables in temporary folders, channels as network.

mod cluster;
mod lab;
mod many;
mod mend;
mod rest;
mod suite;
mod witness;
