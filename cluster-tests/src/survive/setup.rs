//! What the sessions find when they begin, and what must be there when they have ended.

use super::client::PATIENCE;
use super::user::User;
use crate::demo::Demo;
use crate::imap::{Imap, quote};
use crate::message::{self, Message};
use crate::random::Random;
use crate::{Error, message::ID_FIELD};
use std::sync::Arc;

/// Large bodies, bytes; the same for all users.
const BIG_BYTES: [usize; 2] = [4 * 1024 * 1024, 1024 * 1024];
/// Messages that go from side to side.
const SIDE_MESSAGES: usize = 10;
/// Messages that flags are set on, at first.
const CHURN_MESSAGES: usize = 20;
/// Messages of one APPEND, and of one COPY.
const APPENDED_AT_ONCE: usize = 500;
const COPIED_AT_ONCE: usize = 10_000;
/// Users that are filled at once.
const USERS_AT_ONCE: usize = 8;

async fn login(demo: &Demo, node: usize, user: &User) -> Result<Imap, Error> {
    let mut imap = demo.imap(node, &user.name).await?;
    imap.patience = PATIENCE;
    Ok(imap)
}

/// Makes mailboxes and messages; the last user gets the large mailbox.
///
/// # Errors
/// In words.
pub async fn fill(demo: &Demo, users: &[Arc<User>], huge: usize) -> Result<(), String> {
    let mut random = Random::new(7);
    let big: Vec<Vec<u8>> = BIG_BYTES.iter().map(|bytes| Message::of_size("big", *bytes, &mut random).bytes).collect();
    let huge_user = &users[users.len() - 1];
    for some in users.chunks(USERS_AT_ONCE) {
        let filling = some.iter().enumerate().map(|(at, user)| fill_one(demo, 1 + at % demo.nodes.len(), user, &big));
        for filled in futures_in_turn(filling).await {
            filled.map_err(|e| format!("filling: {e}"))?;
        }
    }
    fill_huge(demo, huge_user, huge).await.map_err(|e| format!("the large mailbox: {e}"))
}

/// Runs futures side by side in this task.
async fn futures_in_turn<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    super::holders::join(futures).await
}

async fn fill_one(demo: &Demo, node: usize, user: &User, big: &[Vec<u8>]) -> Result<(), Error> {
    let mut imap = login(demo, node, user).await?;
    for mailbox in ["Churn", "Big", "Left", "Right", "Kept"] {
        imap.command(&format!("CREATE {mailbox}")).await?;
    }
    for bytes in big {
        imap.append("Big", "", bytes).await?;
    }
    for (mailbox, count) in [("Left", SIDE_MESSAGES), ("Churn", CHURN_MESSAGES)] {
        for number in 0..count {
            imap.append(mailbox, "", &Message::new(&format!("{mailbox}-{number}"), b"at first\r\n").bytes).await?;
        }
    }
    imap.logout().await
}

async fn fill_huge(demo: &Demo, user: &User, count: usize) -> Result<(), Error> {
    let mut imap = login(demo, 1, user).await?;
    imap.command("CREATE Huge").await?;
    let mut there = 0;
    while there < count.min(APPENDED_AT_ONCE) {
        let mut command = format!("APPEND {}", quote("Huge"));
        for number in 0..APPENDED_AT_ONCE {
            let message = Message::new(&format!("huge-{number}"), b"one of many\r\n");
            command.push_str(&format!(" {{{}+}}\r\n{}", message.bytes.len(), String::from_utf8_lossy(&message.bytes)));
        }
        imap.command(&command).await?;
        there += APPENDED_AT_ONCE;
    }
    while there < count {
        imap.select("Huge", false).await?;
        let many = (count - there).min(there).min(COPIED_AT_ONCE);
        imap.command(&format!("COPY 1:{many} Huge")).await?;
        there += many;
    }
    imap.logout().await
}

/// Ids of the messages in a mailbox.
async fn ids(imap: &mut Imap, mailbox: &str) -> Result<Vec<String>, Error> {
    if imap.select(mailbox, true).await?.exists == 0 {
        return Ok(Vec::new());
    }
    let messages = imap.uid_fetch("1:*", &format!("(BODY.PEEK[HEADER.FIELDS ({ID_FIELD})])")).await?;
    Ok(messages.iter().map(|m| m.body.as_ref().and_then(|b| message::id_of(b)).unwrap_or_default()).collect())
}

/// Compares what is there with what was acknowledged; how many messages were accounted for. Violations are the users' troubles.
///
/// # Errors
/// In words, when a mailbox could not be read.
pub async fn look(demo: &Demo, users: &[Arc<User>]) -> Result<u64, String> {
    let mut accounted = 0;
    for (at, user) in users.iter().enumerate() {
        accounted += look_at(demo, 1 + at % demo.nodes.len(), user).await.map_err(|e| format!("{}: {e}", user.name))?;
    }
    Ok(accounted)
}

async fn look_at(demo: &Demo, node: usize, user: &User) -> Result<u64, Error> {
    let mut imap = login(demo, node, user).await?;
    let mut accounted = 0;
    for mailbox in ["Kept", "INBOX"] {
        let found = ids(&mut imap, mailbox).await?;
        let ledger = user.ledger(mailbox).clone();
        ledger.judge(mailbox, &found).iter().for_each(|violation| user.note_trouble(violation));
        accounted += ledger.len() as u64;
    }
    let mut sides = ids(&mut imap, "Left").await?;
    sides.extend(ids(&mut imap, "Right").await?);
    sides.sort();
    let mut expected: Vec<String> = (0..SIDE_MESSAGES).map(|number| format!("Left-{number}")).collect();
    expected.sort();
    if sides != expected {
        user.note_trouble(&format!("MOVE lost or doubled messages: {sides:?}"));
    }
    imap.logout().await?;
    Ok(accounted)
}
