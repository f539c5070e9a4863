//! Published batches, put together by who must have taken them, so that one barrier serves many.

use std::sync::Arc;

use crate::bus::{
    Confirm, Taken,
    embedded::{Core, ledger::Pending, member::Member, resolve::Resolved},
};

/// Batches of one wake-up that have the same audience.
pub(super) struct Group {
    pub(super) members: Vec<Arc<Member>>,
    pub(super) batches: Vec<Pending>,
}

/// Confirms a published batch at once, or puts it into the group that its audience makes.
pub(super) fn confirm(core: &Core, mut batch: Pending, topics: &[Arc<Resolved>], groups: &mut Vec<Group>) {
    let socketed = |topic: &&Arc<Resolved>| topic.confirm == Confirm::Socket && !topic.audience.is_empty();
    let Some(first) = topics.iter().find(socketed).map(|topic| &topic.audience) else {
        core.counters.confirmed.add(1);
        return batch.tell(Taken::All);
    };
    let mut union = None;
    batch.needs.clear();
    if topics.iter().filter(socketed).any(|topic| !same(&topic.audience, first)) {
        batch.needs.extend(topics.iter().filter(socketed).cloned());
        let all = union.insert(first.to_vec());
        batch.needs.iter().for_each(|topic| merge(all, &topic.audience));
    }
    let members = union.as_deref().unwrap_or(first);
    match groups.iter_mut().find(|group| same(&group.members, members)) {
        Some(group) => group.batches.push(batch),
        None => groups.push(Group { members: members.to_vec(), batches: vec![batch] }),
    }
}

/// Whether a member went away, so that its batches come back once their barrier is posted.
pub(super) fn is_broken(groups: &[Group]) -> bool {
    groups.iter().flat_map(|group| &group.members).any(|member| member.is_closed())
}

/// Adds the members of `more`; both are in the order of ids.
fn merge(into: &mut Vec<Arc<Member>>, more: &[Arc<Member>]) {
    for member in more {
        if let Err(place) = into.binary_search_by_key(&member.id, |known| known.id) {
            into.insert(place, Arc::clone(member));
        }
    }
}

fn same(left: &[Arc<Member>], right: &[Arc<Member>]) -> bool {
    left.len() == right.len() && left.iter().zip(right).all(|(a, b)| a.id == b.id)
}
