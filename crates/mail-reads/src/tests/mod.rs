//! Pages over real tables: accounts are made by applying commands, bodies lie in memory.

mod fetch;
mod large;
mod racing;
mod search;
mod sections;

use crate::{Bodies, ParsedCache, Parsing, ReadError, Unreadable, fetch_page, parsed_cache, search_page};
use bytes::Bytes;
use parliament_ids::{
    AccountId, BodyHash, Boot, DateTime, Fence, FlagSet, Keyword, MailboxId, MailboxName, ModSeq, NodeId, OpNo, SystemFlags, ThreadId, Uid,
    UidSet,
};
use parliament_mail_api::{
    FetchItems, FetchPage, FetchRequest, FlagChange, FlagMode, Mutation, Rejection, SearchKey, SearchPage, SearchRequest, Section,
    SectionKind,
};
use parliament_mailbox_state::{Acquire, Command, Evidence, MemoryTables, NewMessage, Op, Overlay, Tables, UserCommand, apply, view};
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Mutex;

const ANN: AccountId = AccountId(7);
const INBOX: MailboxId = MailboxId::INBOX;
/// 2023-11-14T22:13:20Z
const T0: i64 = 1_700_000_000;

/// Bodies in memory that remember what was read.
#[derive(Default)]
struct Shelf {
    bodies: HashMap<BodyHash, Bytes>,
    reads: Mutex<Vec<BodyHash>>,
}

impl Bodies for Shelf {
    fn read(&self, hash: &BodyHash) -> Result<Bytes, Unreadable> {
        self.reads.lock().unwrap().push(*hash);
        self.bodies.get(hash).cloned().ok_or(Unreadable(*hash))
    }
}

/// One account, its holder's counters, and its bodies.
struct Bed {
    tables: MemoryTables,
    shelf: Shelf,
    cache: ParsedCache,
    op_no: Cell<u64>,
    bodies: u8,
}

fn set(text: &str) -> UidSet {
    UidSet::from_ranges(text.split(',').filter(|part| !part.is_empty()).map(|part| {
        let (a, b) = part.split_once(':').unwrap_or((part, part));
        (a.parse().unwrap(), b.parse().unwrap())
    }))
}

fn message(hash: BodyHash, size: u64) -> NewMessage {
    NewMessage { hash, size, internal_date: None, flags: FlagSet::default(), thread: ThreadId(9) }
}

fn section(path: &[u32], kind: SectionKind) -> Section {
    Section { path: path.to_vec(), kind, partial: None }
}

fn with_sections(sections: Vec<Section>) -> FetchItems {
    FetchItems { sections, ..FetchItems::default() }
}

fn fetch(uids: &str, items: FetchItems) -> FetchRequest {
    FetchRequest { mailbox: INBOX, uids: set(uids), items, changed_since: None, vanished: false }
}

fn uids(page: &FetchPage) -> String {
    page.rows.iter().map(|row| row.flags.uid).collect::<UidSet>().to_string()
}

impl Bed {
    fn new() -> Self {
        let cache = parsed_cache(1 << 20);
        let mut bed = Self { tables: MemoryTables::new(), shelf: Shelf::default(), cache, op_no: Cell::new(0), bodies: 0 };
        bed.apply(&Command::CreateAccount { account: ANN, uid_validity_floor: 0, time: T0 });
        let acquire = Acquire { node: NodeId(1), boot: Boot(1), expect_fence: Fence(0), evidence: Evidence::Free };
        let first = UserCommand { acquire: Some(acquire), ..bed.command(Op::Noop) };
        bed.apply(&Command::User(first));
        bed
    }

    fn command(&self, op: Op) -> UserCommand {
        self.op_no.set(self.op_no.get() + 1);
        let op_no = OpNo(self.op_no.get());
        UserCommand { account: ANN, fence: Fence(1), op_no, request: None, actor: ANN, time: T0, acquire: None, op }
    }

    fn apply(&mut self, command: &Command) {
        let mut overlay = Overlay::new(&self.tables);
        apply(&mut overlay, 1, command).unwrap().outcome.unwrap();
        let writes = overlay.into_writes();
        self.tables.commit(writes);
    }

    fn run(&mut self, op: Op) {
        let command = self.command(op);
        self.apply(&Command::User(command));
    }

    /// Puts a body on the shelf.
    fn shelve(&mut self, body: &[u8]) -> NewMessage {
        self.bodies += 1;
        let hash = BodyHash([self.bodies; 32]);
        self.shelf.bodies.insert(hash, Bytes::copy_from_slice(body));
        message(hash, body.len() as u64)
    }

    fn append(&mut self, messages: Vec<NewMessage>) {
        self.run(Op::Append { to: MailboxName::inbox(), messages });
    }

    fn append_bodies(&mut self, bodies: &[&str]) {
        let messages = bodies.iter().map(|body| self.shelve(body.as_bytes())).collect();
        self.append(messages);
    }

    /// Messages of no body that anybody reads.
    fn append_many(&mut self, count: u32) {
        let sized = |n: u32| message(BodyHash([0; 32]), u64::from(n));
        for first in (0..count).step_by(10_000) {
            self.append((first..count.min(first + 10_000)).map(sized).collect());
        }
    }

    fn expunge(&mut self, uids: &str) {
        self.store(uids, SystemFlags::DELETED, &[]);
        self.run(Op::Mutate(Mutation::Expunge { mailbox: INBOX, uids: Some(set(uids)) }));
    }

    fn store(&mut self, uids: &str, system: SystemFlags, keywords: &[&str]) {
        let keywords = keywords.iter().map(|text| Keyword::new(text).unwrap()).collect();
        let change = FlagChange { mode: FlagMode::Add, flags: FlagSet { system, keywords } };
        self.run(Op::Mutate(Mutation::Store { mailbox: INBOX, uids: set(uids), change, unchanged_since: None }));
    }

    fn modseq(&self) -> ModSeq {
        view::mailboxes(&self.tables, ANN).unwrap()[0].highest_modseq
    }

    fn try_fetch_on(&self, tables: &dyn Tables, request: &FetchRequest) -> Result<Result<FetchPage, Rejection>, ReadError> {
        fetch_page(tables, &Parsing { bodies: &self.shelf, cache: &self.cache }, ANN, request)
    }

    fn try_fetch(&self, request: &FetchRequest) -> Result<Result<FetchPage, Rejection>, ReadError> {
        self.try_fetch_on(&self.tables, request)
    }

    fn fetch(&self, request: &FetchRequest) -> FetchPage {
        self.try_fetch(request).unwrap().unwrap()
    }

    /// All pages, asked as a session asks them; each must move forward.
    fn fetch_all(&self, request: &FetchRequest) -> Vec<FetchPage> {
        let mut request = request.clone();
        let mut pages = Vec::new();
        loop {
            let page = self.fetch(&request);
            let next = page.next;
            let told = page.rows.iter().map(|row| row.flags.uid).chain(page.missing.last()).max();
            assert!(next.is_none_or(|next| told.is_some_and(|told| told < next)), "nothing is told beyond the page");
            pages.push(page);
            let Some(next) = next else { return pages };
            assert!(request.uids.first().unwrap() < next, "a page moves forward");
            request.uids = request.uids.intersection(&UidSet::range(next, Uid(u32::MAX)));
        }
    }

    fn try_search_on(&self, tables: &dyn Tables, key: SearchKey, from: u32) -> Result<SearchPage, ReadError> {
        let request = SearchRequest { mailbox: INBOX, key, from: Uid(from) };
        search_page(tables, &Parsing { bodies: &self.shelf, cache: &self.cache }, ANN, &request)
    }

    /// The matches of all pages, and how many pages there were.
    fn search_pages(&self, key: &SearchKey) -> (UidSet, usize) {
        let (mut found, mut from, mut pages) = (UidSet::new(), 1, 0);
        loop {
            let page = self.try_search_on(&self.tables, key.clone(), from).unwrap();
            pages += 1;
            found = found.union(&page.uids);
            let Some(next) = page.next else { return (found, pages) };
            assert!(next.0 > from, "a page moves forward");
            from = next.0;
        }
    }

    fn search(&self, key: SearchKey) -> String {
        self.search_pages(&key).0.to_string()
    }

    /// How many bodies were read since the last question.
    fn reads(&self) -> usize {
        std::mem::take(&mut *self.shelf.reads.lock().unwrap()).len()
    }
}

fn arrived(mut message: NewMessage, seconds: i64, zone_minutes: i16) -> NewMessage {
    message.internal_date = Some(DateTime { seconds, zone_minutes });
    message
}
