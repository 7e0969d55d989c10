//! The list of group 0's voters changes while promises rest on it; [`parliament_routing::Promises`] tells by which rules.

use crate::clock::boot_ms;
use crate::support::{OLDEST_LIST_NOTE, Support, put_note, withdrawn_note};
use parliament_ids::{Boot, NodeId, VotersVersion};
use parliament_routing::VoterList;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

impl Support {
    /// The voters whose promises count, as far as this node knows.
    #[must_use]
    pub fn list(&self) -> Arc<VoterList> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Group 0 has another list of voters; an older one than that which is known changes nothing.
    pub fn set_list(&self, list: VoterList) {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.list();
        if list.version <= known.version {
            return;
        }
        if list.nodes.contains(&self.me) && !known.nodes.contains(&self.me) {
            self.votes_since_ms.store(boot_ms(), Ordering::Release);
        }
        own.set_voters(list.nodes.iter().copied());
        self.trusted_until.store(own.trusted_until_ms(), Ordering::Release);
        *self.list.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(list);
    }

    /// Answers no request by an older list any more, durably. All withdrawals that this node has told or heard of: one that is told
    /// later was asked for by this list.
    ///
    /// # Errors
    /// When the journal has failed.
    pub async fn settle(&self, list: VotersVersion) -> Result<BTreeMap<NodeId, Boot>, String> {
        // Held, so that no withdrawal by an older list is told after this.
        let _withdrawn = self.withdrawn.lock().await;
        let (oldest, floors) = {
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            book.settle(list);
            (book.oldest_list(), book.floors())
        };
        put_note(&self.journal, OLDEST_LIST_NOTE, &oldest.0.to_le_bytes()).await?;
        Ok(floors)
    }

    /// Takes over what other voters have withdrawn, durably: nothing more is promised to those boots here.
    ///
    /// # Errors
    /// When the journal has failed.
    pub async fn hear_of(&self, floors: &BTreeMap<NodeId, Boot>) -> Result<(), String> {
        let mut withdrawn = self.withdrawn.lock().await;
        for (node, boot) in floors {
            self.book.lock().unwrap_or_else(PoisonError::into_inner).hear_of(*node, *boot);
            if withdrawn.get(node).is_none_or(|known| known < boot) {
                put_note(&self.journal, &withdrawn_note(*node), &boot.0.to_le_bytes()).await?;
                withdrawn.insert(*node, *boot);
            }
        }
        Ok(())
    }
}
