//! Going on as another user.

use std::collections::BTreeSet;
use std::fs;

use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::ConfineError;

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";
const STATUS: &str = "/proc/thread-self/status";

/// Has this thread be `user`, in `group` alone, or in the user's groups. With `keeps_capabilities` it
/// keeps those that it may have, which are then to be dropped one by one.
pub(super) fn switch(
    user: &str,
    group: Option<&str>,
    keeps_capabilities: bool,
) -> Result<(), ConfineError> {
    let identity = |key, name: &str, problem: String| ConfineError::Identity {
        key,
        name: name.to_owned(),
        problem,
    };
    let known = lines(USERS, user).map_err(|problem| identity("user", user, problem))?;
    let (uid, own_group) = match &known {
        Some(fields) => (number(fields, 2), number(fields, 3)),
        None => (user.parse().ok(), None),
    };
    let Some(uid) = uid else {
        let problem = format!("there is no such user in {USERS}: add it (useradd --system)");
        return Err(identity("user", user, problem));
    };
    let gid = match group {
        None => own_group.ok_or_else(|| {
            let problem = format!("{USERS} does not say its group: add process.group");
            identity("user", user, problem)
        })?,
        Some(name) => {
            let known = lines(GROUPS, name).map_err(|problem| identity("group", name, problem))?;
            let gid = known.map_or_else(|| name.parse().ok(), |fields| number(&fields, 2));
            gid.ok_or_else(|| {
                let problem = format!("there is no such group in {GROUPS}: add it (groupadd)");
                identity("group", name, problem)
            })?
        }
    };
    let mut groups = vec![gid];
    if group.is_none()
        && let Some(fields) = &known
    {
        groups.extend(member_of(&fields[0]));
    }
    let held = fs::read_to_string(STATUS).map(|status| Held::read(&status));
    let held = held.map_err(|error| identity("user", user, format!("{STATUS}: {error}")))?;
    become_them(&held, uid, gid, &groups, keeps_capabilities).map_err(|error| {
        let problem = format!(
            "{error}: start as root, as that user with its own groups alone, or without process.user"
        );
        identity("user", user, problem)
    })
}

/// Sets what is not so already: whoever is that user and no more needs no right for it.
fn become_them(
    held: &Held,
    uid: u32,
    gid: u32,
    groups: &[u32],
    keeps_capabilities: bool,
) -> Result<(), Errno> {
    if !held.has_just(groups) {
        let all: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        match set_thread_groups(&all) {
            // Without a right to them it has fewer than it may.
            Err(_) if held.has_at_most(groups) => {}
            result => result?,
        }
    }
    if held.groups != [gid; 4] {
        let gid = Gid::from_raw(gid);
        set_thread_res_gid(gid, gid, gid)?;
    }
    if held.users != [uid; 4] {
        let uid = Uid::from_raw(uid);
        set_keep_capabilities(keeps_capabilities)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    Ok(())
}

/// Whom this thread is: each of its user and group ids (real, effective, saved, that of files), and
/// its supplementary groups.
#[derive(Debug, Eq, PartialEq)]
struct Held {
    users: Vec<u32>,
    groups: Vec<u32>,
    supplementary: BTreeSet<u32>,
}

impl Held {
    /// From a status of proc(5).
    fn read(status: &str) -> Self {
        let numbers = |name: &str| -> Vec<u32> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let words = line.unwrap_or_default().split_whitespace();
            words.filter_map(|word| word.parse().ok()).collect()
        };
        Self {
            users: numbers("Uid:"),
            groups: numbers("Gid:"),
            supplementary: numbers("Groups:").into_iter().collect(),
        }
    }

    fn has_just(&self, groups: &[u32]) -> bool {
        self.supplementary == groups.iter().copied().collect()
    }

    fn has_at_most(&self, groups: &[u32]) -> bool {
        self.supplementary
            .iter()
            .all(|group| groups.contains(group))
    }
}

/// The fields of the line that begins with `name`, of a file of the form of passwd(5).
fn lines(file: &str, name: &str) -> Result<Option<Vec<String>>, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let fields = |line: &str| line.split(':').map(str::to_owned).collect::<Vec<_>>();
    Ok(text.lines().map(fields).find(|fields| fields[0] == name))
}

fn number(fields: &[String], at: usize) -> Option<u32> {
    fields.get(at)?.parse().ok()
}

/// The groups that list `user`.
fn member_of(user: &str) -> Vec<u32> {
    let text = fs::read_to_string(GROUPS).unwrap_or_default();
    let groups = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_member = fields.get(3)?.split(',').any(|member| member == user);
        is_member.then(|| fields[2].parse().ok()).flatten()
    });
    groups.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a program with the set-user-id bit leaves one behind.
    #[test]
    fn a_saved_id_is_given_up() {
        const NOBODY: u32 = 65_534;
        if !rustix::process::geteuid().is_root() {
            println!("skipped: only root may become another user");
            return;
        }
        // It is its thread's alone.
        std::thread::scope(|scope| {
            let switched = scope.spawn(|| {
                let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
                set_thread_groups(&[gid]).unwrap();
                set_thread_res_gid(gid, gid, gid).unwrap();
                set_thread_res_uid(uid, uid, Uid::ROOT).unwrap();
                switch("65534", Some("65534"), false).unwrap();
                let held = Held::read(&fs::read_to_string(STATUS).unwrap());
                assert_eq!(held.users, [NOBODY; 4]);
            });
            switched.join().unwrap();
        });
    }

    #[test]
    fn every_id_counts() {
        let held = Held::read("Name:\tx\nUid:\t1\t1\t0\t1\nGid:\t2\t2\t2\t2\nGroups:\t2 7 \n");
        assert_eq!(held.users, [1, 1, 0, 1]);
        assert_eq!(held.groups, [2; 4]);
        assert!(held.has_just(&[7, 2, 7]) && !held.has_just(&[2]));
        assert!(held.has_at_most(&[2, 7, 9]) && !held.has_at_most(&[2]));
        assert!(Held::read("Groups:\t\n").has_just(&[]));
    }
}
