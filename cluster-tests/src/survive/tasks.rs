//! What the IMAP sessions do. Each does one kind of thing over and over, checks what it is told, and now and then compares its
//! whole view with that of a new connection.

use super::client::{Answer, Client};
use super::user::User;
use crate::Error;
use crate::imap::Imap;
use crate::message::Message;
use crate::random::Random;
use crate::token::fetched;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From one comparison of a session's view to the next.
const COMPARE_EVERY: Duration = Duration::from_secs(15);
/// Messages above which the expunging session removes some.
const CHURN_MESSAGES: u32 = 40;

/// What a session does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// IDLE.
    Idle,
    /// Large bodies, read slowly.
    Fetch,
    /// Flags, by number, by UID and with UNCHANGEDSINCE.
    Store,
    /// APPEND, some in two halves, some large.
    Append,
    /// SEARCH and UID SEARCH.
    Search,
    /// MOVE between two mailboxes, COPY to a third.
    Move,
    /// Marks and removes.
    Expunge,
    /// Several commands in one write.
    Pipeline,
    /// LIST and STATUS.
    List,
    /// POP3: frozen numbers, DELE at QUIT.
    Pop3,
    /// LMTP, cut in the middle of DATA.
    Lmtp,
}

/// The sessions of one user, in turn.
pub const ROLES: [Role; 12] = [
    Role::Idle,
    Role::Store,
    Role::Append,
    Role::Expunge,
    Role::Fetch,
    Role::Lmtp,
    Role::Pop3,
    Role::Move,
    Role::Pipeline,
    Role::Search,
    Role::List,
    Role::Idle,
];

/// One IMAP session.
pub struct Task {
    /// What it does.
    pub role: Role,
    /// Whose it is.
    pub user: Arc<User>,
    /// Where it is connected.
    pub address: String,
    /// The mailbox in which flags, searches, removals and so on take place.
    pub mailbox: &'static str,
    /// For choices.
    pub random: Random,
    /// Longest rest between two commands, ms.
    pub rest_ms: usize,
}

impl Task {
    /// Works until the run is over.
    ///
    /// # Errors
    /// The session broke.
    pub async fn work(&mut self, client: &mut Client) -> Result<(), Error> {
        let home = match self.role {
            Role::Fetch => "Big",
            Role::Move => self.user.here(),
            _ => self.mailbox,
        };
        client.select(home).await?;
        let mut compared = Instant::now();
        let mut turn = 0;
        while !self.user.is_over() {
            // All but idle sessions rest while one compares, since nothing may change meanwhile.
            let quiet = self.user.quiet.clone();
            let working = if self.role == Role::Idle { None } else { Some(quiet.read().await) };
            self.step(client, turn).await?;
            drop(working);
            turn += 1;
            if compared.elapsed() > COMPARE_EVERY && client.judge.is_selected() {
                self.compare(client).await?;
                compared = Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(self.random.below(self.rest_ms) as u64)).await;
        }
        if client.judge.is_selected() {
            self.compare(client).await?;
        }
        client.command("LOGOUT", "LOGOUT").await.map(|_| ())
    }

    async fn step(&mut self, client: &mut Client, turn: usize) -> Result<(), Error> {
        match self.role {
            Role::Idle => client.idle(Duration::from_millis(500 + self.random.below(4000) as u64)).await.map(|_| ()),
            Role::Fetch => self.fetch(client).await,
            Role::Store => self.store(client).await,
            Role::Append => self.append(client, turn).await,
            Role::Search => self.search(client).await,
            Role::Move => self.shuffle(client, turn).await,
            Role::Expunge => self.expunge(client).await,
            Role::Pipeline => self.pipeline(client).await,
            Role::List => self.list(client).await,
            Role::Pop3 | Role::Lmtp => Ok(()),
        }
    }

    /// A message by number, and its UID where it is known.
    fn any(&mut self, client: &Client) -> Option<(u32, Option<u32>)> {
        let count = client.judge.len() as usize;
        let seq = u32::try_from(1 + self.random.below(count.max(1))).ok().filter(|_| count > 0)?;
        Some((seq, client.judge.uid(seq)))
    }

    async fn noop(client: &mut Client) -> Result<(), Error> {
        client.command("NOOP", "NOOP").await.map(|_| ())
    }

    async fn fetch(&mut self, client: &mut Client) -> Result<(), Error> {
        let seq = if self.random.below(3) == 0 { 1 } else { 2 };
        let answer = client.command("FETCH body", &format!("FETCH {seq} (UID BODY.PEEK[])")).await?;
        client.check_bodies(&answer);
        if answer.is_ok() && !answer.untagged.iter().any(|line| matches!(fetched(line), Ok(Some(m)) if m.body.is_some())) {
            client.judge.violation("FETCH of a body was answered OK without one");
        }
        Ok(())
    }

    async fn store(&mut self, client: &mut Client) -> Result<(), Error> {
        let Some((seq, uid)) = self.any(client) else { return Self::noop(client).await };
        let sign = if self.random.below(2) == 0 { "+" } else { "-" };
        let flag = ["\\Flagged", "\\Answered", "work", "$Label1"][self.random.below(4)];
        let (kind, command) = match (self.random.below(4), uid) {
            (0, Some(uid)) => ("UID STORE", format!("UID STORE {uid} (UNCHANGEDSINCE 1000000000) {sign}FLAGS ({flag})")),
            (1, Some(uid)) => ("UID STORE", format!("UID STORE {uid} {sign}FLAGS.SILENT ({flag})")),
            (2, _) => ("STORE", format!("STORE {seq} (UNCHANGEDSINCE 1) {sign}FLAGS ({flag})")),
            _ => ("STORE", format!("STORE {seq} {sign}FLAGS ({flag})")),
        };
        client.command(kind, &command).await?;
        if command.contains("SILENT") {
            client.judge.forget_flags();
        }
        Ok(())
    }

    async fn append(&mut self, client: &mut Client, turn: usize) -> Result<(), Error> {
        let (kept, cut) = (self.random.below(2) == 0, self.random.below(3) == 0);
        let id = self.user.next_id("append");
        let size = if turn % 40 == 20 { 300_000 } else { 200 + self.random.below(4000) };
        let message = Message::of_size(&id, size, &mut self.random);
        let mailbox = if kept { "Kept" } else { self.mailbox };
        let pause = cut.then(|| Duration::from_millis(200 + self.random.below(1300) as u64));
        if kept {
            self.user.ledger("Kept").sent(&id);
        }
        let answer = client.append(mailbox, &message.bytes, pause).await?;
        if kept && answer.is_ok() {
            self.user.ledger("Kept").acknowledged(&id);
        }
        Ok(())
    }

    async fn search(&mut self, client: &mut Client) -> Result<(), Error> {
        let uid = if self.random.below(2) == 0 { "UID SEARCH" } else { "SEARCH" };
        let key = ["FLAGGED", "UNANSWERED SMALLER 3000", "SUBJECT message", "KEYWORD work", "ALL"][self.random.below(5)];
        client.command(uid, &format!("{uid} {key}")).await.map(|_| ())
    }

    /// Everything from one side to the other, and a copy to where removals take place. No message may be lost or doubled.
    async fn shuffle(&mut self, client: &mut Client, turn: usize) -> Result<(), Error> {
        let other = self.user.there();
        if client.judge.is_empty() {
            return self.cross(client).await;
        }
        if turn % 5 == 4 {
            return client.command("COPY", &format!("COPY 1 {}", self.mailbox)).await.map(|_| ());
        }
        let uid = client.judge.uid(1).filter(|_| turn.is_multiple_of(2));
        match uid {
            Some(uid) => client.command("MOVE", &format!("UID MOVE {uid} {other}")).await.map(|_| ()),
            None => client.command("MOVE", &format!("MOVE 1:* {other}")).await.map(|_| ()),
        }
    }

    async fn cross(&mut self, client: &mut Client) -> Result<(), Error> {
        let to = self.user.cross();
        client.select(to).await
    }

    async fn expunge(&mut self, client: &mut Client) -> Result<(), Error> {
        let count = client.judge.len();
        if count <= CHURN_MESSAGES {
            return Self::noop(client).await;
        }
        let many = (count - CHURN_MESSAGES + 10).min(20).min(count);
        let first = client.judge.uid(1);
        client.command("STORE", &format!("STORE 1:{many} +FLAGS.SILENT (\\Deleted)")).await?;
        client.judge.forget_flags();
        match first.filter(|_| self.random.below(2) == 0) {
            Some(uid) => client.command("EXPUNGE", &format!("UID EXPUNGE {uid}:{}", uid.saturating_add(1000))).await.map(|_| ()),
            None => client.command("EXPUNGE", "EXPUNGE").await.map(|_| ()),
        }
    }

    async fn pipeline(&mut self, client: &mut Client) -> Result<(), Error> {
        let Some((seq, uid)) = self.any(client) else { return Self::noop(client).await };
        let to = seq.saturating_add(2).min(client.judge.len());
        let mut commands = vec![
            "NOOP".to_owned(),
            format!("FETCH {seq}:{to} (UID FLAGS)"),
            "STATUS Kept (MESSAGES UIDNEXT)".to_owned(),
            format!("FETCH {seq} (UID RFC822.SIZE)"),
        ];
        commands.extend(uid.map(|uid| format!("UID STORE {uid} +FLAGS (piped)")));
        commands.push("NOOP".to_owned());
        client.burst(&commands).await.map(|_| ())
    }

    /// Unavailable is not empty: an OK tells every mailbox there is.
    async fn list(&mut self, client: &mut Client) -> Result<(), Error> {
        if self.random.below(2) == 0 {
            return client.command("STATUS", "STATUS Churn (MESSAGES UIDNEXT UNSEEN)").await.map(|_| ());
        }
        let answer = client.command("LIST", "LIST \"\" *").await?;
        let tells = |name: &str| answer.untagged.iter().any(|line| line.ends_with(format!(" {name}").as_bytes()));
        if answer.is_ok()
            && let Some(missing) = ["INBOX", "Churn", "Big", "Left", "Right", "Kept"].iter().find(|name| !tells(name))
        {
            client.judge.violation(&format!("LIST was answered OK without {missing}"));
        }
        Ok(())
    }

    /// Compares the replayed view with that of a new connection, while no other session of the user works.
    async fn compare(&mut self, client: &mut Client) -> Result<(), Error> {
        let quiet = self.user.quiet.clone();
        let _alone = quiet.write().await;
        let answer: Answer = client.command("NOOP", "NOOP").await?;
        if !answer.is_ok() {
            return Ok(());
        }
        let mailbox = match self.role {
            Role::Fetch => "Big",
            Role::Move => self.user.here(),
            _ => self.mailbox,
        };
        match fresh(&self.address, &self.user, mailbox).await {
            Ok(view) => {
                client.judge.compare(&view);
                self.user.count_comparison();
            }
            Err(error) => self.user.note_trouble(&format!("a new connection could not read {mailbox}: {error}")),
        }
        Ok(())
    }
}

/// UIDs and flags as a new connection is told them.
async fn fresh(address: &str, user: &User, mailbox: &str) -> Result<Vec<(u32, Vec<String>)>, Error> {
    let mut imap = Imap::connect(address).await?;
    imap.patience = super::client::PATIENCE;
    imap.command(&format!("LOGIN {} {}", user.name, user.password)).await?;
    let selected = imap.select(mailbox, true).await?;
    let mut view = Vec::new();
    if selected.exists > 0 {
        for message in imap.command("FETCH 1:* (UID FLAGS)").await?.fetched()? {
            let (Some(uid), Some(flags)) = (message.uid, message.flags) else { continue };
            view.push((uid, flags));
        }
    }
    imap.logout().await?;
    Ok(view)
}
