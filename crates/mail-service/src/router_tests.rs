use super::*;
use parliament_ids::{ModSeq, Uid, UidSet};

fn delta(modseq: u64, gone: bool) -> Delta {
    let (none, mailbox) = (UidSet::new(), MailboxId(1));
    Delta {
        mailbox,
        gone,
        modseq: ModSeq(modseq),
        uid_next: Uid(1),
        vanished: none.clone(),
        arrived: none,
        changed: Vec::new(),
        keywords: Vec::new(),
    }
}

#[test]
fn an_answer_that_tells_less_than_this_replica_has_is_asked_for_again() {
    assert!(is_ahead(&delta(8, false), &delta(7, false)));
    assert!(is_ahead(&delta(7, true), &delta(7, false)), "deleted here, not yet there");
    assert!(!is_ahead(&delta(7, false), &delta(7, false)) && !is_ahead(&delta(6, false), &delta(7, false)));
    assert!(!is_ahead(&delta(9, false), &delta(7, true)));
}

#[test]
fn an_heir_that_still_hears_the_former_holder_is_asked_again() {
    let (me, heir, dead) = (NodeId(1), NodeId(2), NodeId(3));
    let owner = Some(OwnerFacts { node: dead, boot: Boot(1), boot_ended: false, live: false, denied: false });
    let (leader, leader_near, relayed, told) = (Some(me), true, false, None);
    let facts = Facts { me, my_boot: Boot(1), replica: true, owner, leader, leader_near, relayed, told, heir: Some(heir) };
    let names = |hint| Unserved::NotHolder { hint };
    assert!(is_early(&facts, heir, &names(Some(dead))) && is_early(&facts, heir, &names(None)));
    assert!(!is_early(&facts, heir, &names(Some(me))), "it says something else");
    assert!(!is_early(&facts, heir, &Unserved::Unreachable) && !is_early(&facts, me, &names(Some(dead))));
}
