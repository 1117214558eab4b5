//! Going on as another user.

use std::fs;

use rustix::process::{Gid, Uid};
use rustix::thread::{
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::ConfineError;

const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";

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
    let is_already = rustix::process::getuid().as_raw() == uid
        && rustix::process::geteuid().as_raw() == uid
        && rustix::process::getgid().as_raw() == gid;
    if is_already {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let groups: Vec<Gid> = groups.into_iter().map(Gid::from_raw).collect();
    set_thread_groups(&groups)
        .and_then(|()| set_thread_res_gid(gid, gid, gid))
        .and_then(|()| set_keep_capabilities(keeps_capabilities))
        .and_then(|()| set_thread_res_uid(uid, uid, uid))
        .map_err(|error| {
            let problem = format!("{error}: start as root, or as that user without process.user");
            identity("user", user, problem)
        })
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
