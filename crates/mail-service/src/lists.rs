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
        self.pace().update(self.me, &own);
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
        {
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            for (node, boot) in floors {
                book.hear_of(*node, *boot);
            }
        }
        let news = floors.iter().filter(|(node, boot)| withdrawn.get(node).is_none_or(|known| known < *boot));
        let news: Vec<(NodeId, Boot)> = news.map(|(node, boot)| (*node, *boot)).collect();
        let journaled =
            news.iter().map(|(node, boot)| async move { put_note(&self.journal, &withdrawn_note(*node), &boot.0.to_le_bytes()).await });
        futures::future::try_join_all(journaled).await?;
        withdrawn.extend(news);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::support::tests::voter;
    use futures::FutureExt;
    use parliament_ids::limits::SUPPORT_MS;
    use parliament_ids::{Boot, NodeId, VotersVersion};
    use parliament_journal::sim::SimDisk;
    use std::collections::BTreeMap;
    use std::time::Duration;

    const OTHER: NodeId = NodeId(2);

    /// What a voter tells when its list is settled must hold every withdrawal by an older list that it ever tells.
    #[tokio::test]
    async fn a_withdrawal_that_waits_while_the_list_is_settled_is_not_told() {
        let disk = SimDisk::default();
        let (support, mut driver) = voter(&disk);
        tokio::time::sleep(Duration::from_millis(SUPPORT_MS + 5)).await;
        let settling = support.settle(VotersVersion(5));
        tokio::pin!(settling);
        assert!(settling.as_mut().now_or_never().is_none(), "its word is being journaled");
        let asking = tokio::spawn({
            let support = support.clone();
            async move { support.on_withdraw(OTHER, Boot(7), VotersVersion(4)).await }
        });
        tokio::task::yield_now().await;
        driver.write_all();
        assert_eq!(settling.await, Ok(BTreeMap::new()));
        assert!(!asking.await.unwrap().withdrawn, "by an older list");
        let (support, _driver) = voter(&disk.after_cut(1));
        let reply = support.on_support(OTHER, Boot(7), VotersVersion(4));
        assert!(!reply.granted && !reply.withdrawn, "its word survives a power cut");
        assert!(support.on_support(OTHER, Boot(7), VotersVersion(5)).granted);
    }

    #[tokio::test]
    async fn what_was_heard_survives_a_power_cut_and_an_own_promise_still_binds() {
        let disk = SimDisk::default();
        let (support, mut driver) = voter(&disk);
        let list = VotersVersion(3);
        assert!(support.on_support(OTHER, Boot(7), list).granted);
        let floors = BTreeMap::from([(OTHER, Boot(7)), (NodeId(9), Boot(2))]);
        let hearing = tokio::spawn({
            let (support, floors) = (support.clone(), floors.clone());
            async move { support.hear_of(&floors).await }
        });
        tokio::task::yield_now().await;
        assert!(support.on_support(OTHER, Boot(7), list).withdrawn, "nothing more is promised");
        assert!(!support.on_withdraw(OTHER, Boot(7), list).await.withdrawn, "what was promised holds");
        driver.write_all();
        hearing.await.unwrap().unwrap();
        let (support, _driver) = voter(&disk.after_cut(1));
        assert!(support.on_support(OTHER, Boot(7), list).withdrawn);
        assert!(!support.on_withdraw(OTHER, Boot(7), list).await.withdrawn, "what was promised before the cut may still run");
        tokio::time::sleep(Duration::from_millis(SUPPORT_MS + 5)).await;
        assert!(support.on_withdraw(OTHER, Boot(7), list).now_or_never().is_some_and(|reply| reply.withdrawn));
    }
}
