//! `parliament demo`: a whole cluster on one machine, of real processes of this program, so that killing one is real.
//!
//! One process, the *demo*, owns the nodes: they are its children, each in a process group of its own, and each ends when its
//! standard input does; so no node outlives the demo, however that ends. A second terminal reaches the demo over a control
//! socket in a folder of the user's ([`registry`]).

mod act;
mod child;
mod control;
mod fill;
mod layout;
mod load;
pub(crate) mod registry;
mod supervise;
mod wire;

use crate::Connect;
use crate::cli::{DemoAction, DemoArgs, Global};
use crate::error::{AdminError, exit};
use crate::terminal::Terminal;

/// Runs a demo, or acts on the one that runs; returns the exit code.
pub(crate) fn run(args: DemoArgs, global: &Global, connect: &Connect, terminal: &mut Terminal) -> Result<u8, AdminError> {
    match &args.action {
        Some(DemoAction::Guard { pid }) => {
            child::guard(*pid);
            Ok(exit::OK)
        }
        Some(action) => {
            let report = crate::verbs::runtime()?.block_on(act::act(action, args.dir.as_deref(), global, connect, terminal))?;
            crate::verbs::print(&report, global.json, terminal);
            Ok(report.exit)
        }
        None => crate::verbs::runtime()?.block_on(supervise::supervise(&args, global, connect, terminal)),
    }
}
