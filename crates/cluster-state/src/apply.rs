//! Applying one command: decided on what the tables say, written as one batch by the caller.

use crate::account::{AccountName, AccountRecord, account, account_named, group_of};
use crate::alone;
use crate::command::{Command, NewAccount};
use crate::members::{self, NodeState};
use crate::moves;
use crate::node::{ClusterRecord, NodeRecord, Placement, cluster, node};
use crate::record::{self, get, key, put};
use parliament_ids::{AccountId, AloneVersion, Boot, MoveId, NodeId, NodeRole};
use parliament_mailbox_state::{Overlay, TableFault};
use serde::{Deserialize, Serialize};

/// What a command of group 0 came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// The accounts made, and the names that were taken or bad.
    Added {
        /// Name and id of each account, in the order given.
        made: Vec<(String, AccountId)>,
        /// Names that were not made.
        taken: Vec<String>,
    },
    /// The node's id.
    Node(NodeId),
    /// The move's number.
    Move(MoveId),
}

/// Why a command of group 0 was refused; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// There is a cluster already.
    AlreadyFormed,
    /// There is no cluster yet.
    NotFormed,
    /// The node is unknown.
    NoSuchNode,
    /// The node's boot is not newer than the last one seen, or its disk is another one.
    StaleNode {
        /// The last boot seen.
        last: Boot,
    },
    /// The account does not exist.
    NoSuchAccount,
    /// A bound of the command was broken.
    Limit,
    /// No open invitation has this secret.
    NotInvited,
    /// Another node has this name.
    NameTaken,
    /// The node was removed, or its disk belongs to a node that was.
    Removed,
    /// The node is neither draining nor lost.
    NotDrained,
    /// The node still holds copies.
    HoldsCopies,
    /// The voters of group 0 change one at a time (rule 23: majorities of neighbouring lists share a voter), or there is no such group.
    NotOneVoter,
    /// The placement has changed since the proposer looked.
    StalePlacement {
        /// Its version now.
        version: u64,
    },
    /// The account is on its way to another group.
    Moving,
    /// There is no such group of users.
    NoSuchGroup,
    /// The account lives in that group.
    SameGroup,
    /// The account's last move is another one, or is decided already.
    NoSuchMove,
    /// The cluster has a witness, and needs no second one.
    SecondWitness,
    /// A node of that role takes no such part in a group.
    WrongRole,
    /// Which data node serves alone has changed since the proposer looked.
    StaleAlone {
        /// The version now.
        version: AloneVersion,
    },
    /// Another data node serves alone, or none does, or there is no witness.
    NotAlone,
    /// The node serves alone.
    ServesAlone,
}

/// A command's result.
pub type Applied = Result<Reply, Refused>;

#[derive(Default, Serialize, Deserialize)]
struct Counters {
    next_account: u64,
}

/// Settings are names and short values.
const SETTING_BYTES_MAX: usize = 1024;

/// Applies one command. The same commands in the same order give the same tables everywhere.
///
/// # Errors
/// [`TableFault`] when this replica's tables are damaged; it must stop.
pub fn apply(tables: &mut Overlay<'_>, command: &Command) -> Result<Applied, TableFault> {
    if let Command::Form { cluster, nodes, placement } = command {
        return form(tables, cluster, nodes, &[], placement);
    }
    if let Command::FormWith { cluster, nodes, roles, placement } = command {
        return form(tables, cluster, nodes, roles, placement);
    }
    let Some(formed) = cluster(tables)? else { return Ok(Err(Refused::NotFormed)) };
    match command {
        Command::Form { .. } | Command::FormWith { .. } => Ok(Err(Refused::AlreadyFormed)),
        Command::NodeStarted { node, boot, disk, peer_address, imap_address } => {
            node_started(tables, *node, *boot, disk, peer_address, imap_address)
        }
        Command::AddAccounts { accounts, time } => add_accounts(tables, &formed, accounts, *time),
        Command::SetCredential { account: id, credential } => {
            let Some(mut row) = account(tables, *id)? else { return Ok(Err(Refused::NoSuchAccount)) };
            credential.clone_into(&mut row.credential);
            row.credential_version += 1;
            put(tables, key(record::ACCOUNT, &id.0.to_be_bytes()), &row)?;
            Ok(Ok(Reply::Done))
        }
        Command::DeleteAccount { account: id, uid_validity_floor } => delete_account(tables, *id, *uid_validity_floor),
        Command::SetSetting { key: name, value } => {
            if name.is_empty() || name.len() + value.len() > SETTING_BYTES_MAX {
                return Ok(Err(Refused::Limit));
            }
            let key = key(record::SETTING, name.as_bytes());
            if value.is_empty() {
                tables.delete(key)
            } else {
                put(tables, key, value)?
            }
            Ok(Ok(Reply::Done))
        }
        Command::Invite { hash, expires, time } => members::invite(tables, *hash, *expires, *time),
        Command::AddNode { joining, time } => members::add_node(tables, joining, NodeRole::Data, *time),
        Command::AddNodeAs { joining, role, time } => members::add_node(tables, joining, *role, *time),
        Command::SetNodeState { node, state } => members::set_node_state(tables, *node, *state),
        Command::RemoveNode { node } => members::remove_node(tables, *node),
        Command::SetPlacement { row } => members::set_placement(tables, row),
        Command::BeginMove { account, to, time } => moves::begin(tables, &formed, *account, *to, *time),
        Command::StopMove { account, move_id, why } => moves::stop(tables, *account, *move_id, why),
        Command::MoveArrived { account, move_id } => moves::arrived(tables, *account, *move_id),
        Command::EndMove { account, move_id } => moves::end(tables, *account, *move_id),
        Command::Alone { version, step } => alone::step(tables, *version, *step),
    }
}

fn form(
    tables: &mut Overlay<'_>,
    formed: &ClusterRecord,
    nodes: &[NodeRecord],
    roles: &[(NodeId, NodeRole)],
    placement: &[Placement],
) -> Result<Applied, TableFault> {
    if cluster(tables)?.is_some() {
        return Ok(Err(Refused::AlreadyFormed));
    }
    if roles.iter().filter(|(_, role)| *role == NodeRole::Witness).count() > 1 {
        return Ok(Err(Refused::SecondWitness));
    }
    for (node, role) in roles {
        members::put_role(tables, *node, *role)?;
    }
    put(tables, vec![record::CLUSTER], formed)?;
    for row in nodes {
        put(tables, key(record::NODE, &row.id.0.to_be_bytes()), row)?;
    }
    for row in placement {
        put(tables, key(record::PLACEMENT, &row.group.0.to_be_bytes()), row)?;
    }
    Ok(Ok(Reply::Done))
}

fn node_started(
    tables: &mut Overlay<'_>,
    id: NodeId,
    boot: Boot,
    disk: &[u8; 16],
    peer_address: &str,
    imap_address: &str,
) -> Result<Applied, TableFault> {
    let Some(mut row) = node(tables, id)? else { return Ok(Err(Refused::NoSuchNode)) };
    if members::node_state(tables, id)? == NodeState::Removed {
        return Ok(Err(Refused::Removed));
    }
    if row.disk != *disk || boot <= row.boot {
        return Ok(Err(Refused::StaleNode { last: row.boot }));
    }
    row.boot = boot;
    peer_address.clone_into(&mut row.peer_address);
    imap_address.clone_into(&mut row.imap_address);
    put(tables, key(record::NODE, &id.0.to_be_bytes()), &row)?;
    Ok(Ok(Reply::Done))
}

fn add_accounts(tables: &mut Overlay<'_>, formed: &ClusterRecord, new: &[NewAccount], time: i64) -> Result<Applied, TableFault> {
    if new.len() > NewAccount::BATCH_MAX {
        return Ok(Err(Refused::Limit));
    }
    let mut counters: Counters = get(tables, &[record::COUNTERS])?.unwrap_or_default();
    let (mut made, mut taken) = (Vec::new(), Vec::new());
    for wanted in new {
        let Ok(name) = AccountName::login(&wanted.name, "") else {
            taken.push(wanted.name.clone());
            continue;
        };
        if account_named(tables, &name)?.is_some() {
            taken.push(wanted.name.clone());
            continue;
        }
        counters.next_account += 1;
        let id = AccountId(counters.next_account);
        let floor: Option<u32> = get(tables, &key(record::FLOOR, name.as_str().as_bytes()))?;
        let row = AccountRecord {
            id,
            name: name.as_str().to_owned(),
            credential: wanted.credential.clone(),
            credential_version: 1,
            group: group_of(id, formed.groups),
            uid_validity_floor: floor.unwrap_or(0),
            created: time,
        };
        put(tables, key(record::ACCOUNT, &id.0.to_be_bytes()), &row)?;
        put(tables, key(record::NAME, name.as_str().as_bytes()), &id)?;
        made.push((row.name, id));
    }
    put(tables, vec![record::COUNTERS], &counters)?;
    Ok(Ok(Reply::Added { made, taken }))
}

fn delete_account(tables: &mut Overlay<'_>, id: AccountId, uid_validity_floor: u32) -> Result<Applied, TableFault> {
    let Some(row) = account(tables, id)? else { return Ok(Err(Refused::NoSuchAccount)) };
    // Where its mail is to be deleted is not decided yet.
    if moves::is_moving(tables, id)? {
        return Ok(Err(Refused::Moving));
    }
    let floor_key = key(record::FLOOR, row.name.as_bytes());
    let floor: Option<u32> = get(tables, &floor_key)?;
    put(tables, floor_key, &floor.unwrap_or(0).max(uid_validity_floor).max(row.uid_validity_floor))?;
    tables.delete(key(record::ACCOUNT, &id.0.to_be_bytes()));
    tables.delete(key(record::MOVES, &id.0.to_be_bytes()));
    tables.delete(key(record::NAME, row.name.as_bytes()));
    Ok(Ok(Reply::Done))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AloneStep, Copies, Joining, accounts, copies, nodes, placement};
    use parliament_ids::GroupId;
    use parliament_mailbox_state::MemoryTables;

    fn row(id: u64) -> NodeRecord {
        NodeRecord {
            id: NodeId(id),
            name: format!("n{id}"),
            zone: String::new(),
            disk: [id as u8; 16],
            boot: Boot(1),
            peer_address: "a".into(),
            imap_address: String::new(),
        }
    }

    struct Machine(MemoryTables);
    impl Machine {
        fn formed() -> Self {
            let mut machine = Self(MemoryTables::new());
            let cluster = ClusterRecord { id: [7; 16], name: "demo".into(), groups: 8 };
            let voters = vec![NodeId(1), NodeId(2)];
            let placement = (0..2).map(|group| Placement { group: GroupId(group), voters: voters.clone() }).collect();
            let form = Command::Form { cluster, nodes: vec![row(1), row(2)], placement };
            assert_eq!(machine.run(&form), Ok(Reply::Done));
            assert_eq!(machine.run(&form), Err(Refused::AlreadyFormed));
            machine
        }
        fn run(&mut self, command: &Command) -> Applied {
            let mut overlay = Overlay::new(&self.0);
            let applied = apply(&mut overlay, command).unwrap();
            let writes = overlay.into_writes();
            assert!(applied.is_ok() || writes.is_empty(), "a refused command changes nothing");
            self.0.commit(writes);
            applied
        }
        fn add(&mut self, names: &[&str]) -> Applied {
            let accounts = names.iter().map(|n| NewAccount { name: (*n).into(), credential: "{X}y".into() }).collect();
            self.run(&Command::AddAccounts { accounts, time: 5 })
        }
    }

    #[test]
    fn nothing_before_the_cluster_is_formed() {
        let mut machine = Machine(MemoryTables::new());
        assert_eq!(machine.add(&["a@b"]), Err(Refused::NotFormed));
    }

    fn with_witness() -> Machine {
        let mut machine = Machine(MemoryTables::new());
        let placement = (0..2).map(|group| Placement { group: GroupId(group), voters: (1..=3).map(NodeId).collect() }).collect();
        let form = Command::FormWith {
            cluster: ClusterRecord { id: [7; 16], name: "demo".into(), groups: 1 },
            nodes: (1..=3).map(row).collect(),
            roles: vec![(NodeId(1), NodeRole::Data), (NodeId(3), NodeRole::Witness)],
            placement,
        };
        assert_eq!(machine.run(&form), Ok(Reply::Done));
        assert_eq!(machine.run(&form), Err(Refused::AlreadyFormed));
        machine
    }

    #[test]
    fn one_data_node_serves_alone_until_the_other_has_everything() {
        let mut machine = with_witness();
        let step = |machine: &mut Machine, version, step| machine.run(&Command::Alone { version: AloneVersion(version), step });
        let (one, two) = (AloneStep::Begin(NodeId(1)), AloneStep::Begin(NodeId(2)));
        for nobody in [NodeId(3), NodeId(4)] {
            assert_eq!(step(&mut machine, 0, AloneStep::Begin(nobody)), Err(Refused::NotAlone), "it has no bodies");
        }
        assert_eq!(step(&mut machine, 0, AloneStep::End), Err(Refused::NotAlone));
        assert_eq!(step(&mut machine, 0, one), Ok(Reply::Done));
        let lost = |node| Command::SetNodeState { node: NodeId(node), state: NodeState::Lost };
        assert_eq!(machine.run(&lost(1)), Err(Refused::ServesAlone), "what it took is nowhere else");
        assert_eq!(step(&mut machine, 0, two), Err(Refused::StaleAlone { version: AloneVersion(1) }), "decided on old facts");
        assert_eq!(step(&mut machine, 1, two), Err(Refused::NotAlone), "it lacks what the first took alone");
        assert_eq!(step(&mut machine, 1, AloneStep::Over), Err(Refused::NotAlone), "not before the witness waits for both again");
        assert_eq!(step(&mut machine, 1, AloneStep::End), Ok(Reply::Done));
        assert_eq!(step(&mut machine, 2, two), Err(Refused::NotAlone), "nor while it is found out what it lacks");
        assert_eq!(step(&mut machine, 2, one), Ok(Reply::Done), "it went away again");
        assert_eq!(step(&mut machine, 2, AloneStep::Over), Err(Refused::StaleAlone { version: AloneVersion(3) }));
        assert_eq!(step(&mut machine, 3, AloneStep::End), Ok(Reply::Done));
        assert_eq!(step(&mut machine, 4, AloneStep::Over), Ok(Reply::Done));
        assert_eq!(step(&mut machine, 5, two), Ok(Reply::Done));
        let now = crate::alone(&machine.0).unwrap();
        assert_eq!((now.version, now.node, now.ending), (AloneVersion(6), Some(NodeId(2)), false));
        let mut without = Machine::formed();
        assert_eq!(step(&mut without, 0, one), Err(Refused::NotAlone), "there is no witness");
    }

    #[test]
    fn roles_are_given_once_and_there_is_one_witness() {
        let mut machine = with_witness();
        let join = |machine: &mut Machine, name: &str, role| {
            machine.run(&Command::Invite { hash: [3; 32], expires: 9, time: 1 }).unwrap();
            let joining = Joining {
                invite: [3; 32],
                name: name.into(),
                zone: String::new(),
                disk: [name.as_bytes()[1]; 16],
                peer_address: "a".into(),
                imap_address: String::new(),
            };
            machine.run(&Command::AddNodeAs { joining, role, time: 2 })
        };
        assert_eq!(join(&mut machine, "n4", NodeRole::Witness), Err(Refused::SecondWitness));
        assert_eq!(join(&mut machine, "n4", NodeRole::Copy), Ok(Reply::Node(NodeId(4))));
        assert_eq!(join(&mut machine, "n4", NodeRole::Frontend), Err(Refused::Removed), "the same disk in another role");
        assert_eq!(join(&mut machine, "n5", NodeRole::Frontend), Ok(Reply::Node(NodeId(5))));
        let row = |group, version, voters: &[u64]| Command::SetPlacement {
            row: Copies { group: GroupId(group), version, voters: voters.iter().copied().map(NodeId).collect(), ..Copies::default() },
        };
        assert_eq!(machine.run(&row(1, 1, &[1, 2, 4])), Err(Refused::WrongRole));
        assert_eq!(machine.run(&row(0, 1, &[1, 2, 3, 5])), Err(Refused::WrongRole));
        machine.run(&Command::SetNodeState { node: NodeId(3), state: NodeState::Lost }).unwrap();
        assert_eq!(join(&mut machine, "n6", NodeRole::Witness), Ok(Reply::Node(NodeId(6))), "a lost one is replaced");
        assert_eq!(crate::roles(&machine.0).unwrap().len(), 4);
        assert_eq!(machine.run(&row(1, 1, &[1, 2, 6])), Ok(Reply::Done));
        assert_eq!(machine.run(&row(0, 1, &[1, 2, 3, 6])), Ok(Reply::Done));
        assert_eq!(machine.run(&row(0, 2, &[1, 2, 6])), Ok(Reply::Done));
        assert_eq!(machine.run(&Command::RemoveNode { node: NodeId(3) }), Ok(Reply::Done));
        assert_eq!(crate::roles(&machine.0).unwrap().len(), 3);
    }

    #[test]
    fn a_name_is_taken_once_and_an_id_is_never_reused() {
        let mut machine = Machine::formed();
        let made = machine.add(&["ann@x", "bob@x", "ANN@x", "bad name@x"]).unwrap();
        let Reply::Added { made, taken } = made else { panic!("{made:?}") };
        assert_eq!(made, [("ann@x".to_owned(), AccountId(1)), ("bob@x".to_owned(), AccountId(2))]);
        assert_eq!(taken, ["ANN@x", "bad name@x"]);
        machine.run(&Command::DeleteAccount { account: AccountId(2), uid_validity_floor: 900 }).unwrap();
        machine.add(&["bob@x"]).unwrap();
        let name = AccountName::login("bob@x", "").unwrap();
        let again = account_named(&machine.0, &name).unwrap().unwrap();
        assert_eq!((again.id, again.uid_validity_floor), (AccountId(3), 900));
        assert_eq!(accounts(&machine.0, AccountId(0), 10).unwrap().len(), 2);
        assert_eq!(accounts(&machine.0, AccountId(2), 1).unwrap()[0].id, AccountId(3));
    }

    #[test]
    fn a_boot_only_rises_and_a_disk_never_changes() {
        let mut machine = Machine::formed();
        let start = |boot, disk| Command::NodeStarted {
            node: NodeId(1),
            boot: Boot(boot),
            disk,
            peer_address: "b".into(),
            imap_address: "c".into(),
        };
        assert_eq!(machine.run(&start(1, [1; 16])), Err(Refused::StaleNode { last: Boot(1) }));
        assert_eq!(machine.run(&start(2, [9; 16])), Err(Refused::StaleNode { last: Boot(1) }));
        assert_eq!(machine.run(&start(2, [1; 16])), Ok(Reply::Done));
        assert_eq!(node(&machine.0, NodeId(1)).unwrap().unwrap().peer_address, "b");
        assert_eq!(nodes(&machine.0).unwrap().len(), 2);
        assert_eq!(placement(&machine.0).unwrap().len(), 2);
    }

    fn joining(name: &str, disk: u8) -> Joining {
        Joining {
            invite: [9; 32],
            name: name.into(),
            zone: "z".into(),
            disk: [disk; 16],
            peer_address: "p".into(),
            imap_address: String::new(),
        }
    }

    fn invite() -> Command {
        Command::Invite { hash: [9; 32], expires: 100, time: 10 }
    }

    #[test]
    fn an_invitation_is_for_one_node_and_for_a_while() {
        let mut machine = Machine::formed();
        let add = |name, disk, time| Command::AddNode { joining: joining(name, disk), time };
        assert_eq!(machine.run(&add("n3", 3, 20)), Err(Refused::NotInvited));
        assert_eq!(machine.run(&invite()), Ok(Reply::Done));
        assert_eq!(machine.run(&add("n3", 3, 100)), Err(Refused::NotInvited), "over");
        assert_eq!(machine.run(&add("n1", 3, 20)), Err(Refused::NameTaken));
        assert_eq!(machine.run(&add("n3", 3, 20)), Ok(Reply::Node(NodeId(3))));
        assert_eq!(machine.run(&add("n3", 3, 500)), Ok(Reply::Node(NodeId(3))), "asked again");
        assert_eq!(machine.run(&add("n4", 4, 20)), Err(Refused::NotInvited), "used up");
        assert_eq!(machine.run(&Command::Invite { hash: [1; 32], expires: 10, time: 10 }), Err(Refused::Limit));
    }

    #[test]
    fn a_removed_node_never_comes_back_and_its_id_is_not_reused() {
        let mut machine = Machine::formed();
        let add = |name, disk| Command::AddNode { joining: joining(name, disk), time: 20 };
        machine.run(&invite()).unwrap();
        machine.run(&add("n3", 3)).unwrap();
        let (three, remove) = (NodeId(3), Command::RemoveNode { node: NodeId(3) });
        assert_eq!(machine.run(&remove), Err(Refused::NotDrained));
        machine.run(&Command::SetNodeState { node: three, state: NodeState::Draining }).unwrap();
        let row = |version, voters: &[u64], learners: &[u64]| {
            let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
            Copies { group: GroupId(1), version, voters: ids(voters), learners: ids(learners), leaving: Vec::new() }
        };
        machine.run(&Command::SetPlacement { row: row(1, &[1], &[3]) }).unwrap();
        assert_eq!(machine.run(&remove), Err(Refused::HoldsCopies));
        machine.run(&Command::SetPlacement { row: row(2, &[1], &[]) }).unwrap();
        assert_eq!(machine.run(&remove), Ok(Reply::Done));
        assert_eq!(machine.run(&remove), Ok(Reply::Done), "told again");
        let back = Command::SetNodeState { node: three, state: NodeState::Active };
        assert_eq!(machine.run(&back), Err(Refused::Removed));
        machine.run(&invite()).unwrap();
        assert_eq!(machine.run(&add("n3", 3)), Err(Refused::Removed), "its disk");
        assert_eq!(machine.run(&add("n3", 4)), Ok(Reply::Node(NodeId(4))), "its name is free");
        let started =
            Command::NodeStarted { node: three, boot: Boot(9), disk: [3; 16], peer_address: String::new(), imap_address: String::new() };
        assert_eq!(machine.run(&started), Err(Refused::Removed));
        assert_eq!(machine.run(&Command::SetPlacement { row: row(3, &[1, 3], &[]) }), Err(Refused::NoSuchNode));
    }

    #[test]
    fn a_placement_changes_only_from_the_version_that_was_seen_and_for_group_0_by_one_voter() {
        let mut machine = Machine::formed();
        let row = |group, version, voters: &[u64]| {
            let voters = voters.iter().copied().map(NodeId).collect();
            Command::SetPlacement { row: Copies { group: GroupId(group), version, voters, ..Copies::default() } }
        };
        machine.run(&invite()).unwrap();
        machine.run(&Command::AddNode { joining: joining("n3", 3), time: 20 }).unwrap();
        assert_eq!(machine.run(&row(0, 1, &[1, 3])), Err(Refused::NotOneVoter));
        assert_eq!(machine.run(&row(0, 1, &[1, 2, 3])), Ok(Reply::Done));
        assert_eq!(machine.run(&row(0, 2, &[1])), Err(Refused::NotOneVoter));
        assert_eq!(machine.run(&row(0, 2, &[3, 1])), Ok(Reply::Done));
        assert_eq!(machine.run(&row(0, 2, &[3])), Err(Refused::StalePlacement { version: 2 }));
        assert_eq!(machine.run(&row(9, 1, &[1])), Err(Refused::NotOneVoter));
        assert_eq!(machine.run(&row(1, 1, &[1, 2])), Ok(Reply::Done));
        assert_eq!(machine.run(&row(1, 1, &[2])), Err(Refused::StalePlacement { version: 1 }));
        assert_eq!(machine.run(&row(1, 2, &[])), Err(Refused::Limit));
        assert_eq!(machine.run(&row(1, 2, &[2, 2])), Err(Refused::Limit));
        let rows = copies(&machine.0).unwrap();
        let voters: Vec<_> = rows.iter().map(|row| (row.group.0, row.version, row.voters.len())).collect();
        assert_eq!(voters, [(0, 2, 2), (1, 1, 2)]);
    }

    #[test]
    fn a_move_changes_the_directory_once_and_one_is_under_way_at_most() {
        use crate::{MoveStage, last_move, open_moves};
        let mut machine = Machine::formed();
        machine.add(&["ann@x"]).unwrap();
        let ann = AccountId(1);
        let home = |machine: &Machine| account(&machine.0, ann).unwrap().unwrap().group;
        let from = home(&machine);
        let (to, other) = (GroupId(from.0 % 8 + 1), GroupId((from.0 + 1) % 8 + 1));
        let begin = |to| Command::BeginMove { account: ann, to, time: 7 };
        assert_eq!(machine.run(&begin(from)), Err(Refused::SameGroup));
        assert_eq!(machine.run(&begin(GroupId(9))), Err(Refused::NoSuchGroup));
        assert_eq!(machine.run(&begin(GroupId(0))), Err(Refused::NoSuchGroup));
        assert_eq!(machine.run(&begin(to)), Ok(Reply::Move(MoveId(1))));
        assert_eq!(machine.run(&begin(to)), Ok(Reply::Move(MoveId(1))), "told again");
        assert_eq!(machine.run(&begin(other)), Err(Refused::Moving));
        assert_eq!(machine.run(&Command::DeleteAccount { account: ann, uid_validity_floor: 1 }), Err(Refused::Moving));
        assert_eq!(open_moves(&machine.0).unwrap().len(), 1);
        let arrived = |n| Command::MoveArrived { account: ann, move_id: MoveId(n) };
        let stop = |n| Command::StopMove { account: ann, move_id: MoveId(n), why: "w".into() };
        let end = |n| Command::EndMove { account: ann, move_id: MoveId(n) };
        assert_eq!(machine.run(&arrived(2)), Err(Refused::NoSuchMove));
        assert_eq!(machine.run(&arrived(1)), Ok(Reply::Done));
        assert_eq!(home(&machine), to);
        assert_eq!(machine.run(&stop(1)), Err(Refused::NoSuchMove), "it is decided");
        assert_eq!(machine.run(&begin(from)), Err(Refused::Moving), "what is left has to go first");
        assert_eq!(machine.run(&end(1)), Ok(Reply::Done));
        assert_eq!(last_move(&machine.0, ann).unwrap().unwrap().stage, MoveStage::Done);
        assert_eq!(machine.run(&begin(from)), Ok(Reply::Move(MoveId(2))));
        assert_eq!(machine.run(&arrived(1)), Err(Refused::NoSuchMove), "an old controller");
        assert_eq!(home(&machine), to);
        assert_eq!(machine.run(&stop(2)), Ok(Reply::Done));
        assert_eq!(machine.run(&end(2)), Ok(Reply::Done));
        assert_eq!(machine.run(&arrived(2)), Err(Refused::NoSuchMove), "given up");
        assert_eq!((home(&machine), open_moves(&machine.0).unwrap().len()), (to, 0));
        assert_eq!(last_move(&machine.0, ann).unwrap().unwrap().stage, MoveStage::GivenUp("w".into()));
        assert_eq!(machine.run(&Command::DeleteAccount { account: ann, uid_validity_floor: 1 }), Ok(Reply::Done));
        assert_eq!(last_move(&machine.0, ann).unwrap(), None);
    }

    #[test]
    fn a_new_credential_ends_cached_verifications() {
        let mut machine = Machine::formed();
        machine.add(&["ann@x"]).unwrap();
        machine.run(&Command::SetCredential { account: AccountId(1), credential: "{Y}z".into() }).unwrap();
        let row = account(&machine.0, AccountId(1)).unwrap().unwrap();
        assert_eq!((row.credential_version, row.credential.as_str()), (2, "{Y}z"));
    }
}
