//! The reasons for a layout's values, which become comments of `layout.toml`.

/// One reason for each value; blank and missing ones are not written. Lists go with those of the
/// layout.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Why {
    pub host: String,
    /// What holds for every shard.
    pub shards_rule: String,
    /// For shards that are not pinned, one reason for all.
    pub shards: Vec<String>,
    pub housekeeping: String,
    pub memory: String,
    pub steering: String,
    pub ring: String,
    /// Why there is no card at all.
    pub no_nic: String,
    pub nics: Vec<NicWhy>,
    pub sysctls: Vec<String>,
    /// What this program never changes: boot parameters, firmware.
    pub advice: Vec<String>,
}

/// The reasons for one card.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NicWhy {
    pub name: String,
    pub queues: String,
    pub irqs: Vec<String>,
    pub rps: Vec<String>,
    pub xps: Vec<String>,
    /// What stays as it is.
    pub left: Vec<String>,
}
