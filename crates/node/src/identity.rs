//! What the data directory says this node is: its disk's id, and once it belongs to a cluster, the cluster's document.

use parliament_cluster_state as state;
use parliament_cluster_state::NodeState;
use parliament_groups::NodeInfo;
use parliament_ids::{GroupId, NodeId, NodeRole, VotersVersion};
use parliament_mail_service::{Layout, Place};
use parliament_mailbox_state::{TableFault, Tables};
use parliament_routing::VoterList;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The version of everything below the data directory.
const FORMAT: &str = "parliament data 1\n";

/// A node as the cluster's document names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) zone: String,
    /// Where peers reach it.
    pub(crate) address: String,
    /// Hex.
    pub(crate) disk: String,
    pub(crate) imap: String,
    #[serde(default)]
    pub(crate) state: NodeState,
    #[serde(default)]
    pub(crate) role: NodeRole,
}

/// The cluster as a node knows it: made by `cluster init`, then kept as group 0 says. On the disk it tells a starting node, before
/// any quorum, where its peers are and which groups it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// Hex of 16 random bytes.
    pub(crate) cluster: String,
    pub(crate) name: String,
    /// Groups of users: 1 to this.
    pub(crate) groups: u32,
    pub(crate) replication: u8,
    pub(crate) members: Vec<Member>,
    /// Voters of each group from 0, the first leader first.
    pub(crate) placement: Vec<Vec<u64>>,
    /// Copies without a vote, by group; groups behind the last row have none.
    #[serde(default)]
    pub(crate) learners: Vec<Vec<u64>>,
    /// Voters about to leave, by group.
    #[serde(default)]
    pub(crate) leaving: Vec<Vec<u64>>,
    /// Nodes that were removed; nobody speaks to them.
    #[serde(default)]
    pub(crate) removed: Vec<u64>,
    /// Version of group 0's row.
    #[serde(default)]
    pub(crate) voters_version: u64,
}

impl Member {
    /// As consensus is told of it.
    pub(crate) fn info(&self) -> NodeInfo {
        NodeInfo { addr: self.address.clone(), zone: self.zone.clone(), witness: self.role == NodeRole::Witness }
    }
}

fn row(rows: &[Vec<u64>], group: GroupId) -> Vec<NodeId> {
    rows.get(group.0 as usize).map(|row| row.iter().copied().map(NodeId).collect()).unwrap_or_default()
}

/// The document together with which member this node is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    pub(crate) node: u64,
    pub(crate) document: Document,
}

impl Identity {
    pub(crate) fn me(&self) -> NodeId {
        NodeId(self.node)
    }
    pub(crate) fn cluster_id(&self) -> [u8; 16] {
        unhex(&self.document.cluster).unwrap_or_default()
    }
}

impl Document {
    /// What group 0's tables say now; `None` before the cluster is in them. What never changes is taken from `known`.
    pub(crate) fn of(tables: &dyn Tables, known: &Self) -> Result<Option<Self>, TableFault> {
        let Some(formed) = state::cluster(tables)? else { return Ok(None) };
        let (all, roles) = (state::members(tables)?, state::roles(tables)?);
        let removed = all.iter().filter(|(_, state)| *state == NodeState::Removed).map(|(row, _)| row.id.0).collect();
        let present = all.into_iter().filter(|(_, state)| *state != NodeState::Removed);
        let member = |(row, state): (state::NodeRecord, NodeState)| Member {
            id: row.id.0,
            name: row.name,
            zone: row.zone,
            address: row.peer_address,
            disk: hex(&row.disk),
            imap: row.imap_address,
            state,
            role: roles.get(&row.id).copied().unwrap_or_default(),
        };
        let mut document = Self { members: present.map(member).collect(), removed, ..known.clone() };
        document.groups = formed.groups;
        let groups = formed.groups as usize + 1;
        document.placement.resize(groups, Vec::new());
        (document.learners, document.leaving) = (vec![Vec::new(); groups], vec![Vec::new(); groups]);
        for copies in state::copies(tables)? {
            let at = copies.group.0 as usize;
            let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|id| id.0).collect();
            if copies.group == GroupId::CLUSTER {
                document.voters_version = copies.version;
            }
            if at < groups {
                document.placement[at] = ids(copies.voters);
                document.learners[at] = ids(copies.learners);
                document.leaving[at] = ids(copies.leaving);
            }
        }
        Ok(Some(document))
    }

    pub(crate) fn voters(&self, group: GroupId) -> Vec<NodeId> {
        row(&self.placement, group)
    }
    /// The nodes whose promises count.
    pub(crate) fn voter_list(&self) -> VoterList {
        VoterList { version: VotersVersion(self.voters_version), nodes: self.voters(GroupId::CLUSTER) }
    }
    /// The group's voters that may lead it and hold its users.
    pub(crate) fn keepers(&self, group: GroupId) -> Vec<NodeId> {
        self.voters(group).into_iter().filter(|node| group == GroupId::CLUSTER || self.role(*node) == NodeRole::Data).collect()
    }
    pub(crate) fn learners(&self, group: GroupId) -> Vec<NodeId> {
        row(&self.learners, group)
    }
    pub(crate) fn leaving(&self, group: GroupId) -> Vec<NodeId> {
        row(&self.leaving, group)
    }
    /// True when the node has a copy of the group, or is to make one.
    pub(crate) fn holds(&self, group: GroupId, node: NodeId) -> bool {
        self.voters(group).contains(&node) || self.learners(group).contains(&node) || self.copiers().contains(&node)
    }
    /// Nodes that follow every group without a vote.
    pub(crate) fn copiers(&self) -> Vec<NodeId> {
        let copies = |member: &&Member| member.role == NodeRole::Copy && member.state == NodeState::Active;
        self.members.iter().filter(copies).map(|member| NodeId(member.id)).collect()
    }
    /// What a node is for; one that is not known is taken for a data node.
    pub(crate) fn role(&self, node: NodeId) -> NodeRole {
        self.member(node).map(|member| member.role).unwrap_or_default()
    }
    /// What a node is to the cluster; one that is not known is gone.
    pub(crate) fn state(&self, node: NodeId) -> NodeState {
        self.member(node).map_or(NodeState::Removed, |member| member.state)
    }
    pub(crate) fn is_removed(&self, node: NodeId) -> bool {
        self.removed.contains(&node.0)
    }
    /// All nodes, as consensus is told of them.
    pub(crate) fn infos(&self) -> std::collections::BTreeMap<NodeId, NodeInfo> {
        self.members.iter().map(|member| (NodeId(member.id), member.info())).collect()
    }
    /// What requests are routed by.
    pub(crate) fn layout(&self) -> Layout {
        let place = |group| Place { voters: self.voters(group), learners: self.learners(group), leaving: self.leaving(group) };
        let gives = self.members.iter().filter(|member| member.state != NodeState::Active || member.role != NodeRole::Data);
        let bodiless = self.members.iter().filter(|member| !member.role.keeps_bodies());
        Layout {
            bodiless: bodiless.map(|member| NodeId(member.id)).collect(),
            groups: (1..=self.groups).map(|number| (GroupId(number), place(GroupId(number)))).collect(),
            giving: gives.map(|member| NodeId(member.id)).collect(),
            zones: self.members.iter().map(|member| (NodeId(member.id), member.zone.clone())).collect(),
        }
    }
    pub(crate) fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id.0)
    }
    pub(crate) fn name_of(&self, id: NodeId) -> String {
        self.member(id).map_or_else(|| id.to_string(), |member| member.name.clone())
    }
    pub(crate) fn named(&self, name: &str) -> Option<NodeId> {
        self.members.iter().find(|member| member.name == name).map(|member| NodeId(member.id))
    }
    /// Checks what a peer sent.
    pub(crate) fn check(&self) -> Result<(), String> {
        let ids: std::collections::BTreeSet<u64> = self.members.iter().map(|member| member.id).collect();
        let known = |rows: &[Vec<u64>]| rows.len() <= self.placement.len() && rows.iter().flatten().all(|id| ids.contains(id));
        let sound = known(&self.learners)
            && known(&self.leaving)
            && unhex(&self.cluster).is_some()
            && ids.len() == self.members.len()
            && self.placement.len() == self.groups as usize + 1
            && self.placement.iter().all(|row| !row.is_empty() && row.iter().all(|id| ids.contains(id)))
            && self.members.iter().all(|member| unhex(&member.disk).is_some());
        if sound { Ok(()) } else { Err("the cluster's document contradicts itself".into()) }
    }
}

/// Places every group: group 0 on up to seven nodes, the others on `replication` data nodes in turn, preferring other zones, and
/// leaders in turn. Two data nodes have the witness beside them, where there is one. Rows are by group from 0.
pub(crate) fn place(members: &[Member], groups: u32, replication: u8) -> Vec<Vec<u64>> {
    let data: Vec<&Member> = members.iter().filter(|member| member.role == NodeRole::Data).collect();
    let voting: Vec<&Member> = members.iter().filter(|member| member.role.votes_in_group_0()).collect();
    let witness = members.iter().find(|member| member.role == NodeRole::Witness && data.len() == 2 && replication >= 3);
    let odd = |n: usize| if n.is_multiple_of(2) { n.saturating_sub(1).max(1) } else { n };
    let copies = if witness.is_some() { 2 } else { odd(data.len()).min(usize::from(replication)) };
    (0..=groups as usize)
        .map(|group| {
            if group == 0 {
                return spread(&voting, 0, odd(voting.len().min(7)));
            }
            let mut row = spread(&data, group, copies);
            row.extend(witness.map(|member| member.id));
            row
        })
        .collect()
}

/// `copies` of the members, beginning with the one whose turn it is.
fn spread(members: &[&Member], first: usize, copies: usize) -> Vec<u64> {
    let mut row: Vec<&Member> = Vec::new();
    let turn: Vec<&Member> = (0..members.len()).map(|n| members[(first + n) % members.len()]).collect();
    for other_zones in [true, false] {
        for member in &turn {
            let zone_taken = row.iter().any(|taken| taken.zone == member.zone);
            let taken = row.iter().any(|taken| taken.id == member.id);
            if row.len() < copies && !taken && !(other_zones && zone_taken) {
                row.push(member);
            }
        }
    }
    row.iter().map(|member| member.id).collect()
}

/// The data directory, locked by this process.
pub(crate) struct DataDir {
    pub(crate) path: PathBuf,
    pub(crate) disk: [u8; 16],
    _lock: File,
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; 16];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

pub(crate) fn random_id() -> io::Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    Ok(id)
}

/// Writes a file so that it is there whole or not at all, whatever dies.
fn write_durably(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

impl DataDir {
    /// Opens or makes the directory (0700), takes its lock, checks its format.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // The journal's opening makes the names on the way to it durable; this one's own is needed before that.
        match path.parent().map(|parent| File::open(parent).and_then(|dir| dir.sync_all())) {
            Some(Err(error)) if error.kind() != io::ErrorKind::PermissionDenied && error.kind() != io::ErrorKind::NotFound => {
                return Err(error);
            }
            _ => {}
        }
        let lock = File::options().create(true).truncate(false).write(true).mode(0o600).open(path.join("LOCK"))?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| io::Error::other(format!("{} is in use by another process", path.display())))?;
        let format = path.join("FORMAT");
        match fs::read_to_string(&format) {
            Ok(found) if found == FORMAT => {}
            Ok(found) => {
                let found = found.trim();
                return Err(io::Error::other(format!("{} holds «{found}», this program knows «{}»", path.display(), FORMAT.trim())));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => write_durably(&format, FORMAT)?,
            Err(error) => return Err(error),
        }
        let disk_file = path.join("disk-id");
        let disk = match fs::read_to_string(&disk_file) {
            Ok(text) => unhex(text.trim()).ok_or_else(|| io::Error::other(format!("{} is damaged", disk_file.display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let id = random_id()?;
                write_durably(&disk_file, &hex(&id))?;
                id
            }
            Err(error) => return Err(error),
        };
        Ok(Self { path: path.to_owned(), disk, _lock: lock })
    }

    pub(crate) fn identity(&self) -> io::Result<Option<Identity>> {
        match fs::read(self.path.join("cluster.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Looks whether the small files here say what this process knows, and writes those anew that do not; how many.
    pub(crate) fn mend(&self, identity: &Identity) -> io::Result<u64> {
        let small = [("FORMAT", FORMAT.to_owned()), ("disk-id", hex(&self.disk))];
        let mut mended = 0;
        for (name, text) in small {
            let path = self.path.join(name);
            parliament_tables::forget_cached(&path);
            if fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
                write_durably(&path, &text)?;
                mended += 1;
            }
        }
        parliament_tables::forget_cached(&self.path.join("cluster.json"));
        if !matches!(self.identity(), Ok(Some(found)) if found == *identity) {
            self.keep_identity(identity)?;
            mended += 1;
        }
        Ok(mended)
    }

    pub(crate) fn keep_identity(&self, identity: &Identity) -> io::Result<()> {
        let text = serde_json::to_string_pretty(identity).map_err(io::Error::other)?;
        write_durably(&self.path.join("cluster.json"), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, zone: &str) -> Member {
        let (disk, state) = (hex(&[1; 16]), NodeState::Active);
        let role = NodeRole::Data;
        Member { id, name: format!("n{id}"), zone: zone.into(), address: String::new(), disk, imap: String::new(), state, role }
    }

    #[test]
    fn groups_are_spread_over_zones_and_leaders_over_nodes() {
        let three: Vec<Member> = (1..=3).map(|id| member(id, "a")).collect();
        let rows = place(&three, 8, 3);
        assert_eq!(rows.len(), 9);
        assert!(rows.iter().all(|row| row.len() == 3));
        let firsts = |id| rows.iter().filter(|row| row[0] == id).count();
        assert_eq!([firsts(1), firsts(2), firsts(3)], [3, 3, 3]);
        assert_eq!(place(&three[..1], 8, 3)[5], [1]);
        assert!(place(&three[..2], 8, 3).iter().all(|row| row.len() == 1), "two nodes cannot outvote each other");
        let zoned = [member(1, "a"), member(2, "a"), member(3, "b"), member(4, "c"), member(5, "c")];
        for row in &place(&zoned, 16, 3)[1..] {
            let zones: std::collections::BTreeSet<_> = row.iter().map(|id| &zoned[*id as usize - 1].zone).collect();
            assert_eq!(zones.len(), 3, "{row:?}");
        }
        assert_eq!(place(&zoned, 1, 3)[0].len(), 5);
    }

    #[test]
    fn a_witness_votes_last_beside_two_data_nodes() {
        let mut members: Vec<Member> = (1..=3).map(|id| member(id, &format!("z{id}"))).collect();
        members[0].role = NodeRole::Witness;
        let rows = place(&members, 4, 3);
        assert_eq!(rows[0].len(), 3);
        assert_eq!(rows[1..], [vec![3, 2, 1], vec![2, 3, 1], vec![3, 2, 1], vec![2, 3, 1]]);
        members.extend([member(4, "z4"), member(5, "z5")]);
        members[4].role = NodeRole::Copy;
        let rows = place(&members, 4, 3);
        assert!(rows[1..].iter().all(|row| row.len() == 3 && row.iter().all(|id| (2..=4).contains(id))), "{rows:?}");
        assert_eq!(rows[0].len(), 3, "an odd number of those that vote: {:?}", rows[0]);
    }

    #[test]
    fn the_document_follows_group_0() {
        use parliament_mailbox_state::{MemoryTables, Overlay};
        let first = Document {
            cluster: hex(&[2; 16]),
            name: "c".into(),
            groups: 1,
            replication: 3,
            members: vec![member(1, "a")],
            placement: vec![vec![1], vec![1]],
            learners: Vec::new(),
            leaving: Vec::new(),
            removed: Vec::new(),
            voters_version: 0,
        };
        let mut tables = MemoryTables::new();
        let mut run = |command: state::Command| {
            let mut overlay = Overlay::new(&tables);
            state::apply(&mut overlay, &command).unwrap().unwrap();
            let writes = overlay.into_writes();
            tables.commit(writes);
            Document::of(&tables, &first).unwrap().unwrap()
        };
        let node = state::NodeRecord {
            id: NodeId(1),
            name: "n1".into(),
            zone: "a".into(),
            disk: [1; 16],
            boot: parliament_ids::Boot(0),
            peer_address: String::new(),
            imap_address: String::new(),
        };
        let placement = (0..2).map(|group| state::Placement { group: GroupId(group), voters: vec![NodeId(1)] }).collect();
        let cluster = state::ClusterRecord { id: [2; 16], name: "c".into(), groups: 1 };
        let formed = run(state::Command::Form { cluster, nodes: vec![node], placement });
        assert_eq!((&formed.members, &formed.placement), (&first.members, &first.placement));
        run(state::Command::Invite { hash: [3; 32], expires: 9, time: 1 });
        let joining = state::Joining {
            invite: [3; 32],
            name: "n2".into(),
            zone: "b".into(),
            disk: [5; 16],
            peer_address: "h2:7400".into(),
            imap_address: String::new(),
        };
        let joined = run(state::Command::AddNode { joining, time: 2 });
        assert_eq!(joined.named("n2"), Some(NodeId(2)));
        let row = state::Copies { group: GroupId(1), version: 1, voters: vec![NodeId(1)], learners: vec![NodeId(2)], leaving: Vec::new() };
        let copying = run(state::Command::SetPlacement { row });
        copying.check().unwrap();
        assert!(copying.holds(GroupId(1), NodeId(2)) && !copying.layout().may_hold(GroupId(1), NodeId(2)), "a learner takes no lease");
        let row = state::Copies { group: GroupId(1), version: 2, voters: vec![NodeId(1)], ..state::Copies::default() };
        run(state::Command::SetPlacement { row });
        let draining = run(state::Command::SetNodeState { node: NodeId(2), state: NodeState::Draining });
        assert_eq!(draining.state(NodeId(2)), NodeState::Draining);
        let removed = run(state::Command::RemoveNode { node: NodeId(2) });
        assert!(removed.is_removed(NodeId(2)) && removed.member(NodeId(2)).is_none());
        removed.check().unwrap();
    }

    #[test]
    fn a_directory_is_one_process_s_and_keeps_its_id() {
        let dir = std::env::temp_dir().join(format!("parliament-identity-{}", std::process::id()));
        let first = DataDir::open(&dir).unwrap();
        assert!(DataDir::open(&dir).is_err(), "locked");
        let disk = first.disk;
        let document = Document {
            cluster: hex(&[2; 16]),
            name: "c".into(),
            groups: 1,
            replication: 1,
            members: vec![member(1, "a")],
            placement: vec![vec![1], vec![1]],
            learners: Vec::new(),
            leaving: Vec::new(),
            removed: Vec::new(),
            voters_version: 0,
        };
        document.check().unwrap();
        // As programs before membership wrote it.
        let mut old = serde_json::to_value(&document).unwrap();
        ["learners", "leaving", "removed"].iter().for_each(|key| drop(old.as_object_mut().unwrap().remove(*key)));
        drop(old["members"][0].as_object_mut().unwrap().remove("state"));
        assert_eq!(serde_json::from_value::<Document>(old).unwrap(), document);
        let identity = Identity { node: 1, document };
        first.keep_identity(&identity).unwrap();
        drop(first);
        let again = DataDir::open(&dir).unwrap();
        assert_eq!((again.disk, again.identity().unwrap()), (disk, Some(identity)));
        fs::write(dir.join("FORMAT"), "parliament data 99\n").unwrap();
        drop(again);
        assert!(DataDir::open(&dir).is_err(), "a newer format is not touched");
        fs::remove_dir_all(&dir).unwrap();
    }
}
