//! A node's part in moves of users between groups: the holder freezes, a replica of the source tells of the user's image, a replica of
//! the target copies what its group lacks and has the move activated. Who orders what, and when, is the controller's matter; every
//! order may be given twice, and late.

use crate::clock::{boot_ms, unix_seconds};
use crate::node::{Local, Shard};
use crate::router::Prepared;
use bytes::Bytes;
use parliament_cluster_state::AccountRecord;
use parliament_formats::{
    ImageAnswer, ImageQuestion, decode_image_answer, decode_image_question, encode_image_answer, encode_image_question,
};
use parliament_ids::{AccountId, BodyHash, Fence, GroupId, MoveId, NodeId, OpNo};
use parliament_mail_api::Unserved;
use parliament_mailbox_state::view::{self, ImagePlace, Presence};
use parliament_mailbox_state::{Acquire, Command, MoveCommand, MoveStep, MovedRecord, Op, SessionMark, UserCommand, bodies_named};
use parliament_rpc::Method;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Hashes in one answer.
const PAGE_RECORDS: usize = 8192;
/// Records of the source in one answer and one entry, bytes. With the bodies that they name an entry stays below its bound.
const CHUNK_BYTES: usize = 256 * 1024;
/// Records asked for at once.
const CHUNK_RECORDS: usize = 1024;
/// Bodies asked about at once.
const BODIES_ASKED_MAX: usize = 10_000;
/// How long another node may take to tell a part of an image.
const ASK_TIMEOUT: Duration = Duration::from_secs(3);
/// How often it is looked whether the target's replicas have got the bodies.
const BODIES_PAUSE: Duration = Duration::from_millis(20);
/// How long a step of a move may take to be committed, ms.
const STEP_MS: u64 = 2_500;

/// What a copying came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Records that differed when it began.
    pub differed: u64,
    /// Records that still differ, of those.
    pub left: u64,
    /// The source was frozen, and the activation was proposed.
    pub activated: bool,
}

type Image = BTreeMap<ImagePlace, u128>;

/// The head of a frozen source.
struct FrozenHead {
    head: Vec<u8>,
    over: Vec<SessionMark>,
}

fn unserved(unserved: &Unserved) -> String {
    format!("{unserved:?}")
}

impl Local {
    /// What a group has of an account after everything that was committed before the call.
    ///
    /// # Errors
    /// When no copy of the group is here, or it has no quorum.
    pub async fn whereabouts(&self, group: GroupId, account: AccountId, within_ms: u64) -> Result<Presence, String> {
        let shard = self.shard(group).ok_or_else(|| format!("group {group} has no copy here"))?;
        self.read_barrier_within(group, within_ms).await.map_err(|e| unserved(&e))?;
        view::presence(shard.group.tables(), account).map_err(|fault| fault.to_string())
    }

    /// Has a step of a move committed in a group of which a copy is here.
    ///
    /// # Errors
    /// When it is not known to be in.
    pub async fn take_move_step(&self, group: GroupId, command: MoveCommand) -> Result<(), String> {
        self.propose_users(group, &Command::Move(command), boot_ms() + STEP_MS).await.map_err(|e| unserved(&e))
    }

    /// Makes the records of an account that was never used.
    ///
    /// # Errors
    /// When it is not known to be in.
    pub async fn make_records(&self, row: &AccountRecord) -> Result<(), String> {
        let make = Command::CreateAccount { account: row.id, uid_validity_floor: row.uid_validity_floor, time: unix_seconds() };
        self.propose_users(row.group, &make, boot_ms() + STEP_MS).await.map_err(|e| unserved(&e))
    }

    /// Freezes a user for a move, as the holder, or with the lease of one that is gone (rules 1 and 14).
    ///
    /// # Errors
    /// When another node holds the user, or no quorum took the entry in time.
    pub async fn freeze(self: &Arc<Self>, row: &AccountRecord, move_id: MoveId, to: GroupId) -> Result<(), String> {
        let shard = self.shard(row.group).ok_or_else(|| format!("group {} has no copy here", row.group))?;
        let owner = self.owner_record(&shard, row.id).map_err(|e| unserved(&e))?.and_then(|record| record.owner);
        let mine = owner.is_some_and(|owner| owner.node == self.me && owner.boot == self.support.boot());
        if mine {
            return self.propose_freeze(row, &shard, None, move_id, to).await;
        }
        if let Some(owner) = owner.filter(|owner| self.support.is_live(owner.node) && !self.support.boot_ended(owner.node, owner.boot)) {
            return Err(format!("node {} holds the user", owner.node));
        }
        let from = owner.map(|owner| (owner.node, owner.boot));
        match self.prepare(row, from, boot_ms() + STEP_MS).await {
            Prepared::Held => self.propose_freeze(row, &shard, None, move_id, to).await,
            Prepared::Denied => Err("the lease cannot be taken now".to_owned()),
            // The first lease of all comes with the mailboxes that users expect; no later one does.
            Prepared::Ready(taking) if taking.acquire.expect_fence == Fence(0) => {
                if self.take(row, &taking).await {
                    self.propose_freeze(row, &shard, None, move_id, to).await
                } else {
                    Err("the lease was not taken".to_owned())
                }
            }
            Prepared::Ready(taking) => self.propose_freeze(row, &shard, Some(taking.acquire.clone()), move_id, to).await,
        }
    }

    async fn propose_freeze(
        &self,
        row: &AccountRecord,
        shard: &Shard,
        acquire: Option<Acquire>,
        move_id: MoveId,
        to: GroupId,
    ) -> Result<(), String> {
        let record = self.owner_record(shard, row.id).map_err(|e| unserved(&e))?.ok_or("the user has no records yet")?;
        let (fence, last) = match &acquire {
            Some(acquire) => (acquire.expect_fence.next(), OpNo(0)),
            None => (record.fence, record.last_op_no),
        };
        // Rule 1: no read is answered from the own tables alone until it is known whether the freeze is in.
        let op_no = self.leases.next_op(row.id, fence, last);
        self.leases.begin_yield(row.id, fence, op_no);
        let command = UserCommand {
            account: row.id,
            fence,
            op_no,
            request: None,
            actor: row.id,
            time: unix_seconds(),
            acquire,
            op: Op::Freeze { move_id, to },
        };
        match self.try_user(row.group, command).await {
            Ok(applied) => {
                self.leases.end_yield(row.id, fence, op_no);
                applied.outcome.map(drop).map_err(|refusal| format!("{refusal:?}"))
            }
            // The mark stays: reads of this fence go through a barrier from now on.
            Err(error) => Err(format!("{error:?}")),
        }
    }

    /// Answers a peer's [`Method::Image`].
    ///
    /// # Errors
    /// When the payload is garbled.
    pub async fn on_image(self: &Arc<Self>, payload: Bytes) -> Result<Bytes, String> {
        let question = decode_image_question(&payload).map_err(|e| e.to_string())?;
        encode_image_answer(&self.tell_image(question).await).map_err(|e| e.to_string())
    }

    async fn tell_image(self: &Arc<Self>, question: ImageQuestion) -> ImageAnswer {
        let local = self.clone();
        let told = tokio::task::spawn_blocking(move || local.image_here(&question)).await;
        told.map_err(|e| e.to_string()).and_then(|told| told).unwrap_or_else(ImageAnswer::Refused)
    }

    /// Reads the disk.
    fn image_here(&self, question: &ImageQuestion) -> Result<ImageAnswer, String> {
        let shard = |group: &GroupId| self.shard(*group).ok_or_else(|| format!("group {group} has no copy here"));
        let told = match question {
            ImageQuestion::Hashes { group, account, from } => {
                let shard = shard(group)?;
                view::image_page(shard.group.tables(), *account, from, PAGE_RECORDS).map(|(page, next)| ImageAnswer::Hashes { page, next })
            }
            ImageQuestion::Records { group, account, places } => {
                let shard = shard(group)?;
                let (mut records, mut bytes) = (Vec::new(), 0);
                for place in places {
                    let record = view::image_record(shard.group.tables(), *account, place).map_err(|fault| fault.to_string())?;
                    bytes += record.as_ref().map_or(0, Vec::len) + place.1.len();
                    records.push(record);
                    if bytes >= CHUNK_BYTES {
                        break;
                    }
                }
                Ok(ImageAnswer::Records(records))
            }
            ImageQuestion::Head { group, account, move_id } => {
                let (shard, tables) = (shard(group)?, |shard: &Shard| shard.group.tables().clone());
                let tables = tables(&shard);
                // The marks after the head: whatever a session lost before the freeze, they cover.
                view::image_head(&tables, *account, *move_id)
                    .and_then(|head| Ok(ImageAnswer::Head { head, over: view::session_marks(&tables)? }))
            }
            ImageQuestion::Bodies { hashes } => {
                let lacking: Vec<BodyHash> =
                    hashes.iter().take(BODIES_ASKED_MAX).filter(|hash| self.bodies.store().size(hash).is_none()).copied().collect();
                lacking.iter().for_each(|hash| self.bodies.want(*hash, false));
                Ok(ImageAnswer::Bodies(lacking.len() as u64))
            }
        };
        told.map_err(|fault| fault.to_string())
    }

    async fn ask_image(self: &Arc<Self>, node: NodeId, question: ImageQuestion) -> Result<ImageAnswer, String> {
        let answer = if node == self.me {
            self.tell_image(question).await
        } else {
            let peer = self.pool.get(node).ok_or("no such node")?;
            let payload = encode_image_question(&question).map_err(|e| e.to_string())?;
            let answer = peer.request(Method::Image, payload, ASK_TIMEOUT).await.map_err(|e| e.to_string())?;
            decode_image_answer(&answer).map_err(|e| e.to_string())?
        };
        match answer {
            ImageAnswer::Refused(why) => Err(why),
            answer => Ok(answer),
        }
    }

    /// The hashes of a user's records at a node.
    async fn image_at(self: &Arc<Self>, node: NodeId, group: GroupId, account: AccountId) -> Result<Image, String> {
        let (mut image, mut from) = (Image::new(), Some((0, Vec::new())));
        while let Some(place) = from {
            let question = ImageQuestion::Hashes { group, account, from: place.clone() };
            let ImageAnswer::Hashes { page, next } = self.ask_image(node, question).await? else { return Err("no page".into()) };
            image.extend(page);
            // A page that does not get further would be asked for for ever.
            from = next.filter(|next| *next > place);
        }
        Ok(image)
    }

    /// A replica of the source, this node first: one that is applied up to the freeze, when there is any, with the frozen head.
    async fn source_at(
        self: &Arc<Self>,
        group: GroupId,
        account: AccountId,
        move_id: MoveId,
    ) -> Result<(NodeId, Option<FrozenHead>), String> {
        let mut nodes: Vec<NodeId> = self.layout().voters(group).to_vec();
        nodes.retain(|node| self.support.is_live(*node));
        nodes.sort_by_key(|node| *node != self.me);
        let (mut found, mut why) = (None, format!("no node with a copy of group {group} answers"));
        for node in nodes {
            match self.ask_image(node, ImageQuestion::Head { group, account, move_id }).await {
                Ok(ImageAnswer::Head { head: Some(head), over }) => return Ok((node, Some(FrozenHead { head, over }))),
                Ok(_) => found = found.or(Some((node, None))),
                Err(reason) => why = reason,
            }
        }
        found.ok_or(why)
    }

    /// Copies to the target, of which a copy is here, what it lacks of the source, for about as long as told. When the source is
    /// frozen and nothing is lacking any more, the move is activated. Nothing rests on what was copied by whom: the activation holds
    /// only if the sums fit.
    ///
    /// # Errors
    /// When a part of the image or its bodies cannot be had now.
    pub async fn copy_user(
        self: &Arc<Self>,
        account: AccountId,
        move_id: MoveId,
        (from, to): (GroupId, GroupId),
        within: Duration,
    ) -> Result<Copied, String> {
        let deadline = boot_ms() + u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let (source, frozen) = self.source_at(from, account, move_id).await?;
        // The head first: what is read after it is the image of the freeze.
        let there = self.image_at(source, from, account).await?;
        let here = self.image_at(self.me, to, account).await?;
        let changed = there.iter().filter(|(place, hash)| here.get(*place) != Some(*hash)).map(|(place, _)| place.clone());
        let gone = here.keys().filter(|place| !there.contains_key(*place)).cloned();
        let places: Vec<ImagePlace> = changed.chain(gone).collect();
        let mut copied = Copied { differed: places.len() as u64, ..Copied::default() };
        let mut rest = places.as_slice();
        while !rest.is_empty() {
            if boot_ms() >= deadline {
                copied.left = rest.len() as u64;
                return Ok(copied);
            }
            let taken = match self.copy_some(source, account, move_id, (from, to), rest, deadline).await {
                Ok(taken) => taken,
                // What was copied before is told of: a move is given up that does not get on.
                Err(why) if rest.len() < places.len() => {
                    tracing::debug!(%account, why, "copied in part");
                    copied.left = rest.len() as u64;
                    return Ok(copied);
                }
                Err(why) => return Err(why),
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
        if let Some(FrozenHead { head, over }) = frozen {
            self.take_move_step(to, MoveCommand { account, move_id, step: MoveStep::Activate { head, over } }).await?;
            copied.activated = true;
        }
        Ok(copied)
    }

    /// Copies the first of these places; how many.
    async fn copy_some(
        self: &Arc<Self>,
        source: NodeId,
        account: AccountId,
        move_id: MoveId,
        (from, to): (GroupId, GroupId),
        places: &[ImagePlace],
        deadline: u64,
    ) -> Result<usize, String> {
        let asked: Vec<ImagePlace> = places.iter().take(CHUNK_RECORDS).cloned().collect();
        let question = ImageQuestion::Records { group: from, account, places: asked.clone() };
        let ImageAnswer::Records(values) = self.ask_image(source, question).await? else { return Err("no records".into()) };
        let taken = values.len().min(asked.len());
        if taken == 0 {
            return Err("no records".into());
        }
        let first = asked.first().cloned().zip(values.first().cloned());
        let records = asked.into_iter().zip(values).map(|((table, key), value)| MovedRecord { table, key, value }).collect();
        let import = MoveCommand { account, move_id, step: MoveStep::Import { from, records } };
        let named = bodies_named(&Command::Move(import.clone()));
        self.have_bodies(from, to, &named, deadline).await?;
        self.take_move_step(to, import).await?;
        // An entry says nothing of what came of it here; all of its records are in, or none.
        let shard = self.shard(to).ok_or_else(|| format!("group {to} has no copy here"))?;
        let is_in = |(place, value): (ImagePlace, Option<Vec<u8>>)| {
            view::image_record(shard.group.tables(), account, &place).is_ok_and(|here| here == value)
        };
        if first.is_some_and(is_in) { Ok(taken) } else { Err(format!("group {to} did not take records of this move")) }
    }

    /// Waits until the target's replicas have these bodies. Where the source has a copy too, they are (I1).
    async fn have_bodies(self: &Arc<Self>, from: GroupId, to: GroupId, hashes: &[BodyHash], deadline: u64) -> Result<(), String> {
        let layout = self.layout();
        let holders = |group: GroupId| -> BTreeSet<NodeId> {
            layout.groups.get(&group).map(|place| place.voters.iter().chain(&place.learners).copied().collect()).unwrap_or_default()
        };
        let without: Vec<NodeId> = holders(to).difference(&holders(from)).copied().filter(|node| self.support.is_live(*node)).collect();
        for node in without {
            loop {
                let question = ImageQuestion::Bodies { hashes: hashes.to_vec() };
                match self.ask_image(node, question).await? {
                    ImageAnswer::Bodies(0) => break,
                    _ if boot_ms() >= deadline => return Err(format!("node {node} is still getting bodies")),
                    _ => tokio::time::sleep(BODIES_PAUSE).await,
                }
            }
        }
        Ok(())
    }
}
