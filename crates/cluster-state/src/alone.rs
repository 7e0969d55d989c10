//! With two data nodes and a witness: whether one data node serves alone (rule 5).
//!
//! Until the other one is back and has everything, mail that is confirmed is on one disk only. What the witness acknowledges
//! rests on this record: it goes ahead of the commit index for the node that is named here, and for no other.

use crate::apply::{Applied, Refused, Reply};
use crate::members::{NodeState, node_role, node_state, roles};
use crate::node::node;
use crate::record::{self, get, put};
use parliament_ids::{AloneVersion, NodeId, NodeRole};
use parliament_mailbox_state::{Overlay, TableFault, Tables};
use serde::{Deserialize, Serialize};

/// Which data node serves alone, if one does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alone {
    /// +1 at each change.
    pub version: AloneVersion,
    /// The node whose copies are the only ones that are known to be whole.
    pub node: Option<NodeId>,
    /// The other one is back: from here on the witness acknowledges what both have, and it is being found out whether anything of
    /// before is missing there.
    pub ending: bool,
}

/// A change of [`Alone`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AloneStep {
    /// This data node serves alone from here on. Refused while another one does: what that one has, this one may lack.
    Begin(NodeId),
    /// See [`Alone::ending`].
    End,
    /// Every data node has everything again.
    Over,
}

/// Whether a data node serves alone.
///
/// # Errors
/// [`TableFault`] on damage.
pub fn alone(tables: &dyn Tables) -> Result<Alone, TableFault> {
    Ok(get(tables, &[record::ALONE])?.unwrap_or_default())
}

/// `version` must be the present one: who decided on old facts changes nothing.
pub(crate) fn step(tables: &mut Overlay<'_>, version: AloneVersion, step: AloneStep) -> Result<Applied, TableFault> {
    let present = alone(tables)?;
    if version != present.version {
        return Ok(Err(Refused::StaleAlone { version: present.version }));
    }
    let next = match (step, present.node) {
        (AloneStep::Begin(who), serving) => {
            let keeps = node(tables, who)?.is_some()
                && node_role(tables, who)? == NodeRole::Data
                && !matches!(node_state(tables, who)?, NodeState::Removed | NodeState::Lost)
                && roles(tables)?.values().any(|role| *role == NodeRole::Witness);
            if !keeps || serving.is_some_and(|serving| serving != who) {
                return Ok(Err(Refused::NotAlone));
            }
            if serving == Some(who) && !present.ending {
                return Ok(Ok(Reply::Done));
            }
            (Some(who), false)
        }
        (AloneStep::End, Some(serving)) if !present.ending => (Some(serving), true),
        (AloneStep::Over, Some(_)) if present.ending => (None, false),
        (AloneStep::End | AloneStep::Over, _) => return Ok(Err(Refused::NotAlone)),
    };
    put(tables, vec![record::ALONE], &Alone { version: version.next(), node: next.0, ending: next.1 })?;
    Ok(Ok(Reply::Done))
}
