//! Files and folders: what is seen, and what a power cut leaves.

use crate::image::Content;
use crate::random::Random;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The number of the uppermost folder.
pub(crate) const ROOT: u64 = 1;

/// What becomes of that which was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is lost: bytes of files and names in folders.
    All,
    /// A random part of it is lost.
    Some,
    /// None is: the processes die, the machine goes on.
    None,
}

/// One or two names that change together.
type Renaming = Vec<(String, Option<u64>)>;

/// A folder.
#[derive(Default)]
pub(crate) struct Folder {
    pub(crate) live: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    unsynced: Vec<Renaming>,
}

impl Folder {
    fn change(&mut self, renaming: Renaming) {
        apply(&mut self.live, &renaming);
        self.unsynced.push(renaming);
    }

    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    pub(crate) fn sync(&mut self, count: usize) {
        for renaming in self.unsynced.drain(..count.min(self.unsynced.len())) {
            apply(&mut self.durable, &renaming);
        }
    }

    pub(crate) fn fail_sync(&mut self) {
        self.unsynced.clear();
    }

    /// Names change in their order: those up to a random moment survive a tearing.
    fn lose(&mut self, loss: Loss, random: &mut Random) {
        if loss == Loss::Some {
            let kept = random.below(self.unsynced.len() as u64 + 1) as usize;
            self.sync(kept);
        }
        if loss != Loss::None {
            self.unsynced.clear();
            self.live = self.durable.clone();
        }
    }

    fn references(&self) -> impl Iterator<Item = u64> {
        let pending = self.unsynced.iter().flatten().filter_map(|(_, node)| *node);
        self.live.values().chain(self.durable.values()).copied().chain(pending)
    }

    fn renumber(&mut self, numbers: &HashMap<u64, u64>) {
        let new = |node: &u64| numbers.get(node).copied().unwrap_or(*node);
        self.live.values_mut().for_each(|node| *node = new(node));
        self.durable.values_mut().for_each(|node| *node = new(node));
        self.unsynced.iter_mut().flatten().for_each(|(_, node)| *node = node.as_ref().map(new));
    }
}

fn apply(names: &mut BTreeMap<String, u64>, renaming: &Renaming) {
    for (name, node) in renaming {
        match node {
            Some(node) => names.insert(name.clone(), *node),
            None => names.remove(name),
        };
    }
}

/// What a number stands for.
pub(crate) enum Kind {
    File(Content),
    Folder(Folder),
}

/// A file or a folder.
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u16,
    /// How many of its syncs have failed.
    pub(crate) failures: u64,
    /// A file that stands for a socket.
    pub(crate) socket: bool,
    /// The name it got last.
    pub(crate) name: String,
    pub(crate) links: u32,
}

impl Node {
    fn new(kind: Kind, mode: u16) -> Self {
        Self { kind, mode, failures: 0, socket: false, name: String::new(), links: 0 }
    }

    pub(crate) fn len(&self) -> u64 {
        match &self.kind {
            Kind::File(content) => content.live.len(),
            Kind::Folder(_) => 4096,
        }
    }
}

/// Why a change of names is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Stale,
    Missing,
    NotFolder,
    IsFolder,
    Exists,
    NotEmpty,
}

/// All of it.
pub(crate) struct Tree {
    nodes: HashMap<u64, Node>,
    next: u64,
    swept_at: usize,
}

impl Tree {
    pub(crate) fn new() -> Self {
        let root = Node { links: 1, ..Node::new(Kind::Folder(Folder::default()), 0o755) };
        Self { nodes: HashMap::from([(ROOT, root)]), next: ROOT + 1, swept_at: 1024 }
    }

    pub(crate) fn node(&mut self, number: u64) -> Result<&mut Node, Refusal> {
        self.nodes.get_mut(&number).ok_or(Refusal::Stale)
    }

    pub(crate) fn file(&mut self, number: u64) -> Result<&mut Content, Refusal> {
        match &mut self.node(number)?.kind {
            Kind::File(content) => Ok(content),
            Kind::Folder(_) => Err(Refusal::IsFolder),
        }
    }

    pub(crate) fn folder(&mut self, number: u64) -> Result<&mut Folder, Refusal> {
        match &mut self.node(number)?.kind {
            Kind::Folder(folder) => Ok(folder),
            Kind::File(_) => Err(Refusal::NotFolder),
        }
    }

    pub(crate) fn find(&mut self, parent: u64, name: &str) -> Result<u64, Refusal> {
        self.folder(parent)?.live.get(name).copied().ok_or(Refusal::Missing)
    }

    pub(crate) fn make(&mut self, parent: u64, name: &str, folder: bool, mode: u16) -> Result<u64, Refusal> {
        if self.folder(parent)?.live.contains_key(name) {
            return Err(Refusal::Exists);
        }
        let kind = if folder { Kind::Folder(Folder::default()) } else { Kind::File(Content::default()) };
        let number = self.next;
        self.next += 1;
        self.nodes.insert(number, Node { name: name.to_owned(), links: 1, ..Node::new(kind, mode) });
        self.folder(parent)?.change(vec![(name.to_owned(), Some(number))]);
        Ok(number)
    }

    pub(crate) fn unlink(&mut self, parent: u64, name: &str, folder: bool) -> Result<(), Refusal> {
        let number = self.find(parent, name)?;
        match &self.node(number)?.kind {
            Kind::File(_) if folder => return Err(Refusal::NotFolder),
            Kind::Folder(_) if !folder => return Err(Refusal::IsFolder),
            Kind::Folder(inner) if !inner.live.is_empty() => return Err(Refusal::NotEmpty),
            _ => {}
        }
        self.folder(parent)?.change(vec![(name.to_owned(), None)]);
        self.node(number)?.links -= 1;
        Ok(())
    }

    /// Within one folder both names change together. Between two, each folder's sync makes its own name durable, as POSIX leaves it open.
    pub(crate) fn rename(&mut self, from: (u64, &str), to: (u64, &str)) -> Result<(), Refusal> {
        let number = self.find(from.0, from.1)?;
        if from == to {
            return Ok(());
        }
        match self.find(to.0, to.1) {
            Ok(replaced) if replaced == number => {}
            Ok(replaced) => {
                let node = self.node(replaced)?;
                if matches!(&node.kind, Kind::Folder(inner) if !inner.live.is_empty()) {
                    return Err(Refusal::NotEmpty);
                }
                node.links -= 1;
            }
            Err(Refusal::Missing) => {}
            Err(other) => return Err(other),
        }
        let (gone, come) = ((from.1.to_owned(), None), (to.1.to_owned(), Some(number)));
        if from.0 == to.0 {
            self.folder(from.0)?.change(vec![gone, come]);
        } else {
            self.folder(to.0)?.change(vec![come]);
            self.folder(from.0)?.change(vec![gone]);
        }
        self.node(number)?.name = to.1.to_owned();
        Ok(())
    }

    /// Makes everything durable.
    pub(crate) fn sync_all(&mut self) {
        for node in self.nodes.values_mut() {
            match &mut node.kind {
                Kind::File(content) => content.sync(content.unsynced()),
                Kind::Folder(folder) => folder.sync(folder.unsynced()),
            }
        }
    }

    /// Bytes of all files that are seen, or held open although their names are gone.
    pub(crate) fn used(&self, open: &BTreeSet<u64>) -> u64 {
        let counted = self.nodes.iter().filter(|(number, node)| node.links > 0 || open.contains(number));
        counted.map(|(_, node)| node.len().next_multiple_of(4096)).sum()
    }

    /// Forgets files that nothing refers to, when many have come since the last time.
    pub(crate) fn sweep(&mut self, open: &BTreeSet<u64>) {
        if self.nodes.len() < self.swept_at {
            return;
        }
        self.forget_unreachable(open);
        self.swept_at = self.nodes.len() * 2 + 1024;
    }

    fn forget_unreachable(&mut self, open: &BTreeSet<u64>) {
        let mut reached: BTreeSet<u64> = BTreeSet::new();
        let mut next: Vec<u64> = open.iter().copied().chain([ROOT]).collect();
        while let Some(number) = next.pop() {
            if reached.insert(number)
                && let Some(Node { kind: Kind::Folder(folder), .. }) = self.nodes.get(&number)
            {
                next.extend(folder.references());
            }
        }
        self.nodes.retain(|number, _| reached.contains(number));
    }

    /// The end of all processes that use it, with or without the machine's. Everything gets new numbers, so that nobody who held a file open
    /// before finds it again.
    pub(crate) fn lose(&mut self, loss: Loss, random: &mut Random) {
        let mut numbers: Vec<u64> = self.nodes.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            match self.nodes.get_mut(&number).map(|node| &mut node.kind) {
                Some(Kind::Folder(folder)) => folder.lose(loss, random),
                Some(Kind::File(content)) if loss == Loss::All => content.cut(),
                Some(Kind::File(content)) if loss == Loss::Some => content.tear(random),
                _ => {}
            }
        }
        self.forget_unreachable(&BTreeSet::new());
        self.renumber();
        self.count_links();
    }

    fn renumber(&mut self) {
        let mut old: Vec<u64> = self.nodes.keys().copied().filter(|number| *number != ROOT).collect();
        old.sort_unstable();
        let numbers: HashMap<u64, u64> = old.into_iter().zip(self.next..).collect();
        self.next += numbers.len() as u64;
        let nodes = std::mem::take(&mut self.nodes);
        for (number, mut node) in nodes {
            if let Kind::Folder(folder) = &mut node.kind {
                folder.renumber(&numbers);
            }
            self.nodes.insert(numbers.get(&number).copied().unwrap_or(number), node);
        }
    }

    fn count_links(&mut self) {
        let mut links: HashMap<u64, u32> = HashMap::from([(ROOT, 1)]);
        for node in self.nodes.values() {
            if let Kind::Folder(folder) = &node.kind {
                folder.live.values().for_each(|number| *links.entry(*number).or_default() += 1);
            }
        }
        for (number, node) in &mut self.nodes {
            node.links = links.get(number).copied().unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tree: &mut Tree, folder: u64) -> Vec<String> {
        tree.folder(folder).unwrap().live.keys().cloned().collect()
    }

    fn cut(tree: &mut Tree) {
        tree.lose(Loss::All, &mut Random::new(1));
    }

    fn sync_folder(tree: &mut Tree, number: u64) {
        let folder = tree.folder(number).unwrap();
        folder.sync(folder.unsynced());
    }

    fn put(tree: &mut Tree, parent: u64, name: &str, bytes: &[u8]) {
        let number = tree.make(parent, name, false, 0o600).unwrap();
        let file = tree.file(number).unwrap();
        file.write(0, bytes);
        file.sync(file.unsynced());
    }

    #[test]
    fn name_without_synced_folder_is_lost_with_its_synced_bytes() {
        let mut tree = Tree::new();
        put(&mut tree, ROOT, "lost", b"bytes");
        cut(&mut tree);
        assert!(names(&mut tree, ROOT).is_empty());
        assert_eq!(tree.nodes.len(), 1);
    }

    #[test]
    fn unsynced_removal_and_renaming_are_undone() {
        let mut tree = Tree::new();
        put(&mut tree, ROOT, "a", b"of a");
        put(&mut tree, ROOT, "b", b"of b");
        sync_folder(&mut tree, ROOT);
        tree.rename((ROOT, "a"), (ROOT, "b")).unwrap();
        tree.unlink(ROOT, "b", false).unwrap();
        assert!(names(&mut tree, ROOT).is_empty());
        cut(&mut tree);
        assert_eq!(names(&mut tree, ROOT), ["a", "b"]);
        let b = tree.find(ROOT, "b").unwrap();
        assert_eq!(tree.file(b).unwrap().live.read(0, 9), b"of b");
    }

    #[test]
    fn replaced_name_has_its_new_bytes_after_a_sync() {
        let mut tree = Tree::new();
        put(&mut tree, ROOT, "a", b"new");
        put(&mut tree, ROOT, "b", b"old");
        tree.rename((ROOT, "a"), (ROOT, "b")).unwrap();
        sync_folder(&mut tree, ROOT);
        cut(&mut tree);
        assert_eq!(names(&mut tree, ROOT), ["b"]);
        let b = tree.find(ROOT, "b").unwrap();
        assert_eq!(tree.file(b).unwrap().live.read(0, 9), b"new");
        assert_eq!(tree.used(&BTreeSet::new()), 4096 * 2);
    }

    #[test]
    fn folder_whose_name_was_not_synced_takes_everything_with_it() {
        let mut tree = Tree::new();
        let folder = tree.make(ROOT, "d", true, 0o755).unwrap();
        put(&mut tree, folder, "f", b"x");
        sync_folder(&mut tree, folder);
        cut(&mut tree);
        assert!(names(&mut tree, ROOT).is_empty());
    }

    #[test]
    fn dead_processes_lose_their_handles_and_nothing_else() {
        let mut tree = Tree::new();
        let before = tree.make(ROOT, "f", false, 0o600).unwrap();
        tree.file(before).unwrap().write(0, b"seen");
        tree.lose(Loss::None, &mut Random::new(1));
        assert!(tree.file(before).is_err_and(|refusal| refusal == Refusal::Stale));
        let after = tree.find(ROOT, "f").unwrap();
        assert_eq!(tree.file(after).unwrap().live.read(0, 9), b"seen");
        cut(&mut tree);
        assert!(names(&mut tree, ROOT).is_empty());
    }

    #[test]
    fn torn_folder_keeps_changes_in_their_order() {
        for seed in 0..40 {
            let mut tree = Tree::new();
            ["a", "b", "c"].iter().for_each(|name| put(&mut tree, ROOT, name, b"x"));
            tree.lose(Loss::Some, &mut Random::new(seed));
            let left = names(&mut tree, ROOT).concat();
            assert!("abc".starts_with(&left), "{left}");
        }
    }
}
