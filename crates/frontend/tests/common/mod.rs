//! A mail service in memory, a directory of two users, and a client that speaks lines.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(unreachable_pub, reason = "shared by the test files of this folder only")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use async_trait::async_trait;
use parliament_frontend::{Frontend, FrontendOptions, Protocol};
use parliament_ids::{
    AccountId, Boot, DateTime, EmailId, MailboxId, MailboxName, ModSeq, NodeId, RequestId, Rights, SystemFlags, ThreadId, Uid, UidSet,
    UidValidity,
};
use parliament_mail_api::bytes_serde::BytesField;
use parliament_mail_api::{
    Answer, BodySource, Call, Changed, Delta, Directory, FetchPage, FetchRow, FlagRow, Identity, LoginError, MailService, Mark, Mutation,
    RecipientError, Rejection, Reply, Request, Selected, Unserved, UploadId, Watch,
};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub const ANN: AccountId = AccountId(1);
pub const BOB: AccountId = AccountId(2);

/// INBOXes in memory. UIDs count from 1; removed messages leave `None`.
#[derive(Default)]
pub struct Memory {
    pub boxes: Mutex<HashMap<AccountId, Vec<Option<Vec<u8>>>>>,
    pub uploads: Mutex<HashMap<(AccountId, UploadId), Vec<u8>>>,
    pub requests: Mutex<Vec<RequestId>>,
    /// How long a delivery to each account takes.
    pub slow: Mutex<HashMap<AccountId, Duration>>,
    /// That many uploads are lost at their end.
    pub lose_uploads: AtomicU32,
    pub no_quorum: AtomicBool,
    pub pieces_read: AtomicU32,
    /// Counts changes, for watches.
    pub changes: tokio::sync::watch::Sender<u64>,
}

impl Memory {
    pub fn messages(&self, account: AccountId) -> Vec<Vec<u8>> {
        self.boxes.lock().unwrap().get(&account).cloned().unwrap_or_default().into_iter().flatten().collect()
    }

    pub fn put(&self, account: AccountId, message: &[u8]) {
        self.boxes.lock().unwrap().entry(account).or_default().push(Some(message.to_vec()));
        self.changes.send_modify(|count| *count += 1);
    }

    fn body(&self, account: AccountId, body: &BodySource) -> Result<Vec<u8>, Rejection> {
        match body {
            BodySource::Inline(bytes) => Ok(bytes.0.to_vec()),
            BodySource::Uploaded { upload, size, .. } => {
                let bytes = self.uploads.lock().unwrap().remove(&(account, *upload)).ok_or(Rejection::UploadLost)?;
                assert_eq!(bytes.len() as u64, *size);
                let lost = self.lose_uploads.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
                if lost { Err(Rejection::UploadLost) } else { Ok(bytes) }
            }
        }
    }

    fn serve(&self, call: &Call) -> Result<Reply, Rejection> {
        let owner = call.owner;
        match &call.body {
            Request::Upload { upload, offset, bytes } => {
                let mut uploads = self.uploads.lock().unwrap();
                let upload = uploads.entry((owner, *upload)).or_default();
                assert_eq!(upload.len() as u64, *offset);
                upload.extend_from_slice(&bytes.0);
                Ok(Reply::Done)
            }
            Request::Deliver(delivery) => {
                let message = self.body(owner, &delivery.message.body)?;
                self.put(owner, &message);
                Ok(Reply::Delivered { mailbox: MailboxId::INBOX, uid: None, duplicate: false })
            }
            Request::Append { messages, .. } => {
                for message in messages {
                    let message = self.body(owner, &message.body)?;
                    self.put(owner, &message);
                }
                let last = Uid(self.boxes.lock().unwrap()[&owner].len() as u32);
                Ok(Reply::Appended { mailbox: MailboxId::INBOX, uid_validity: UidValidity(9), uids: UidSet::one(last) })
            }
            Request::Select(_) => Ok(self.select(owner)),
            Request::Fetch(fetch) => Ok(self.sizes(owner, &fetch.uids)),
            Request::ReadBody { uid, offset, length, .. } => {
                self.pieces_read.fetch_add(1, SeqCst);
                let boxes = self.boxes.lock().unwrap();
                let message = boxes.get(&owner).and_then(|b| b.get(uid.0 as usize - 1)?.as_ref()).ok_or(Rejection::Expunged)?;
                let from = (*offset as usize).min(message.len());
                let piece = &message[from..(from + *length as usize).min(message.len())];
                Ok(Reply::Piece(BytesField(piece.to_vec().into())))
            }
            Request::Mutate(Mutation::Expunge { uids: Some(uids), .. }) => {
                let mut boxes = self.boxes.lock().unwrap();
                uids.iter().for_each(|uid| boxes.get_mut(&owner).unwrap()[uid.0 as usize - 1] = None);
                Ok(Reply::Done)
            }
            _ => Ok(Reply::Done),
        }
    }

    fn uids(&self, owner: AccountId) -> UidSet {
        let boxes = self.boxes.lock().unwrap();
        let rows = boxes.get(&owner).map(|rows| rows.iter().enumerate()).into_iter().flatten();
        rows.filter(|(_, row)| row.is_some()).map(|(at, _)| Uid(at as u32 + 1)).collect()
    }

    fn delta(&self, owner: AccountId, mark: Mark) -> Delta {
        let uids = self.uids(owner);
        let known = UidSet::range(Uid(1), Uid(mark.uid_next.0 - 1));
        let arrived = uids.difference(&known);
        Delta {
            mailbox: mark.mailbox,
            gone: false,
            modseq: ModSeq(mark.modseq.0 + 1),
            uid_next: arrived.last().map_or(mark.uid_next, Uid::next),
            vanished: known.difference(&uids),
            arrived,
            changed: Vec::new(),
            keywords: Vec::new(),
        }
    }

    fn select(&self, owner: AccountId) -> Reply {
        let uids = self.uids(owner);
        let uid_next = uids.last().map_or(Uid(1), Uid::next);
        Reply::Selected(Box::new(Selected {
            mailbox: MailboxId::INBOX,
            name: MailboxName::inbox(),
            uid_validity: UidValidity(9),
            uid_next,
            highest_modseq: ModSeq(1),
            uids,
            first_unseen: None,
            keywords: Vec::new(),
            rights: Rights::ALL,
            recent_from: uid_next,
        }))
    }

    fn sizes(&self, owner: AccountId, uids: &UidSet) -> Reply {
        let boxes = self.boxes.lock().unwrap();
        let rows = uids.iter().filter_map(|uid| Some((uid, boxes.get(&owner)?.get(uid.0 as usize - 1)?.as_ref()?.len() as u64)));
        let row = |(uid, size)| FetchRow {
            flags: FlagRow { uid, system: SystemFlags::NONE, keywords: 0, modseq: ModSeq(1) },
            internal_date: DateTime::default(),
            save_date: 0,
            size,
            hash: None,
            email_id: EmailId(1),
            thread_id: ThreadId(1),
            envelope: None,
            body: None,
            body_structure: None,
            preview: None,
            parts: Vec::new(),
        };
        Reply::Fetched(FetchPage { rows: rows.map(row).collect(), ..FetchPage::default() })
    }
}

#[async_trait]
impl MailService for Memory {
    async fn call(&self, call: Call) -> Result<Answer, Unserved> {
        assert_eq!(call.body.mutates(), call.request.is_some());
        if let Some(request) = call.request {
            self.requests.lock().unwrap().push(request);
            let wait = self.slow.lock().unwrap().get(&call.owner).copied().unwrap_or_default();
            tokio::time::sleep(wait).await;
        }
        if self.no_quorum.load(SeqCst) {
            return Err(Unserved::NoQuorum);
        }
        let outcome = self.serve(&call);
        Ok(Answer { outcome, delta: call.view.map(|mark| self.delta(call.owner, mark)) })
    }

    fn watch(&self, _: AccountId, _: MailboxId) -> Box<dyn Watch> {
        Box::new(Counted(self.changes.subscribe()))
    }
}

struct Counted(tokio::sync::watch::Receiver<u64>);

#[async_trait]
impl Watch for Counted {
    async fn changed(&mut self) -> Changed {
        self.0.changed().await.unwrap();
        Changed
    }
}

pub struct TwoUsers;

#[async_trait]
impl Directory for TwoUsers {
    async fn login(&self, name: &str, password: &str, _: IpAddr) -> Result<Identity, LoginError> {
        let identity = self.recipient(&format!("{name}@x")).await.map_err(|_| LoginError::Refused)?;
        if password == "secret" { Ok(identity) } else { Err(LoginError::Refused) }
    }
    async fn recipient(&self, address: &str) -> Result<Identity, RecipientError> {
        match address.split(['+', '@']).next() {
            Some("ann") => Ok(Identity { account: ANN, name: "ann@x".into() }),
            Some("bob") => Ok(Identity { account: BOB, name: "bob@x".into() }),
            _ => Err(RecipientError::Unknown),
        }
    }
}

pub struct Served {
    pub frontend: Frontend,
    pub memory: Arc<Memory>,
    pub directory: tempfile::TempDir,
}

/// A frontend on loopback ports that the system chooses.
pub async fn start(change: impl FnOnce(&mut FrontendOptions)) -> Served {
    let directory = tempfile::tempdir().unwrap();
    let mut options = FrontendOptions::new(NodeId(1), Boot(1), "mx.example", directory.path().join("spool"));
    let any = "127.0.0.1:0".parse().unwrap();
    (options.lmtp, options.pop3, options.imap) = (vec![any], vec![any], vec![any]);
    options.lmtp_add_headers = false;
    change(&mut options);
    let memory = Arc::new(Memory::default());
    let service: Arc<dyn MailService> = Arc::clone(&memory) as Arc<dyn MailService>;
    let frontend = Frontend::start(options, service, Arc::new(TwoUsers)).await.unwrap();
    Served { frontend, memory, directory }
}

/// A client that speaks lines.
pub struct Client<S> {
    pub stream: BufReader<S>,
}

impl Client<TcpStream> {
    pub async fn connect(served: &Served, protocol: Protocol) -> Self {
        let address = served.frontend.address(protocol, false).unwrap();
        Self { stream: BufReader::new(TcpStream::connect(address).await.unwrap()) }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next line without its end; empty at the end of the stream.
    pub async fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await.unwrap();
        String::from_utf8(line).unwrap().trim_end_matches("\r\n").to_owned()
    }

    /// Reads lines up to one that begins with `text`, and returns it.
    pub async fn until(&mut self, text: &str) -> String {
        loop {
            let line = tokio::time::timeout(Duration::from_secs(10), self.line()).await.expect(text);
            assert!(!line.is_empty(), "the stream ended before {text}");
            if line.starts_with(text) {
                return line;
            }
        }
    }

    pub async fn say(&mut self, line: &str, answer: &str) -> String {
        self.send(format!("{line}\r\n")).await;
        self.until(answer).await
    }

    /// Everything up to the end of the stream.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // A reset is an end too.
        let _ = self.stream.read_to_end(&mut bytes).await;
        String::from_utf8(bytes).unwrap()
    }
}

/// Waits up to 10 seconds for something to become true.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}
