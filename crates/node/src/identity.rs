//! What the data directory says this node is: its disk's id, and once it belongs to a cluster, the cluster's document.

use parliament_ids::{GroupId, NodeId};
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
}

/// What `cluster init` gives to every node.
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
    pub(crate) fn voters(&self, group: GroupId) -> Vec<NodeId> {
        self.placement.get(group.0 as usize).map(|row| row.iter().copied().map(NodeId).collect()).unwrap_or_default()
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
        let sound = unhex(&self.cluster).is_some()
            && ids.len() == self.members.len()
            && self.placement.len() == self.groups as usize + 1
            && self.placement.iter().all(|row| !row.is_empty() && row.iter().all(|id| ids.contains(id)))
            && self.members.iter().all(|member| unhex(&member.disk).is_some());
        if sound { Ok(()) } else { Err("the cluster's document contradicts itself".into()) }
    }
}

/// Places every group: group 0 on up to seven nodes, the others on `replication` nodes in turn, preferring other zones, and
/// leaders in turn. Rows are by group from 0.
pub(crate) fn place(members: &[Member], groups: u32, replication: u8) -> Vec<Vec<u64>> {
    let odd = |n: usize| if n.is_multiple_of(2) { n.saturating_sub(1).max(1) } else { n };
    (0..=groups as usize)
        .map(|group| {
            let copies = if group == 0 { odd(members.len().min(7)) } else { odd(members.len()).min(usize::from(replication)) };
            let mut row: Vec<&Member> = Vec::new();
            let turn: Vec<&Member> = (0..members.len()).map(|n| &members[(group + n) % members.len()]).collect();
            for spread in [true, false] {
                for member in &turn {
                    let zone_taken = row.iter().any(|taken| taken.zone == member.zone);
                    let taken = row.iter().any(|taken| taken.id == member.id);
                    if row.len() < copies && !taken && !(spread && zone_taken) {
                        row.push(member);
                    }
                }
            }
            row.iter().map(|member| member.id).collect()
        })
        .collect()
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

    pub(crate) fn keep_identity(&self, identity: &Identity) -> io::Result<()> {
        let text = serde_json::to_string_pretty(identity).map_err(io::Error::other)?;
        write_durably(&self.path.join("cluster.json"), &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, zone: &str) -> Member {
        Member { id, name: format!("n{id}"), zone: zone.into(), address: String::new(), disk: hex(&[1; 16]), imap: String::new() }
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
        };
        document.check().unwrap();
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
