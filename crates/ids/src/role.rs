//! What a node is in the cluster for.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a node is in the cluster for; chosen when it enters the cluster, and for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// It keeps mail: votes in groups, holds leases, has bodies.
    #[default]
    Data,
    /// It votes beside two data nodes and keeps no bodies (rule 5). It never leads a group of users and holds no leases.
    Witness,
    /// It serves clients and keeps no mail.
    Frontend,
    /// It keeps a copy of all mail without a vote, for another site: nobody waits for it, and it holds no leases.
    Copy,
}

impl NodeRole {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Data, Self::Witness, Self::Frontend, Self::Copy];

    /// Its name, as in configurations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Witness => "witness",
            Self::Frontend => "frontend",
            Self::Copy => "copy",
        }
    }
    /// True when such a node has the bodies of the groups that it has.
    #[must_use]
    pub const fn keeps_bodies(self) -> bool {
        matches!(self, Self::Data | Self::Copy)
    }
    /// True when such a node may vote in group 0.
    #[must_use]
    pub const fn votes_in_group_0(self) -> bool {
        matches!(self, Self::Data | Self::Witness)
    }
}

impl fmt::Display for NodeRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Not the name of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSuchRole;

impl FromStr for NodeRole {
    type Err = NoSuchRole;
    fn from_str(name: &str) -> Result<Self, NoSuchRole> {
        Self::ALL.into_iter().find(|role| role.name() == name).ok_or(NoSuchRole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        assert!(NodeRole::ALL.into_iter().all(|role| role.name().parse() == Ok(role)));
        assert_eq!("Data".parse::<NodeRole>(), Err(NoSuchRole));
    }
}
