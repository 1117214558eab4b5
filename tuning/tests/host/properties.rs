//! What holds for the plan of every machine with every option, and of damaged machines.

use std::fs;
use std::path::Path;

use ringgate_tune::cpu_set::CpuSet;
use ringgate_tune::explain::Picture;
use ringgate_tune::inspection::Inspection;
use ringgate_tune::layout::why::Why;
use ringgate_tune::layout::{Layout, Nic, Shards, Steering};
use ringgate_tune::plan::{Plan, PlanOptions};
use ringgate_tune::table::Table;

use crate::machines;

fn all_options(here: &Inspection) -> Vec<PlanOptions> {
    let cards = here.nics.iter().map(|nic| vec![nic.name.clone()]);
    let bonds = here.bonds.iter().map(|bond| vec![bond.name.clone()]);
    let mut options = Vec::new();
    for nics in cards
        .chain(bonds)
        .chain([vec![], vec!["nosuch".to_owned()]])
    {
        for reserve in [0, 1, 2, 7, 1000] {
            for smt in [false, true] {
                for steering in [Steering::Hash, Steering::Cpu] {
                    for place_interrupts in [false, true] {
                        options.push(PlanOptions {
                            reserve,
                            smt,
                            steering,
                            nics: nics.clone(),
                            place_interrupts,
                        });
                    }
                }
            }
        }
    }
    options
}

/// Holds one plan against everything that must be so.
fn check(here: &Inspection, options: &PlanOptions, who: &str) {
    let plan = Plan::new(here, options);
    let layout = &plan.layout;
    let text = plan.to_toml();
    let who = format!("{who} with {options:?}\n{text}");
    assert_eq!(parsed(&text).as_ref(), Ok(layout), "{who}");
    assert_eq!(
        parsed(&layout.to_toml(&Why::default())).as_ref(),
        Ok(layout),
        "{who}"
    );
    assert!(layout.shard_count() >= 1, "{who}");
    assert_eq!(layout.misfits(here), Vec::<String>::new(), "{who}");
    let shards = layout.shard_cpus();
    assert!(
        shards.intersection(&layout.housekeeping).is_empty(),
        "{who}"
    );
    if let Some(quota) = here.cgroup.quota_below(here.usable.len()) {
        assert!(matches!(layout.shards, Shards::Unpinned(_)), "{who}");
        assert!(layout.shard_count() as f64 <= quota.cpus.max(1.0), "{who}");
    }
    if let Shards::Pinned(pinned) = &layout.shards {
        let served: Vec<u32> = pinned
            .iter()
            .flat_map(|shard| shard.serves.iter())
            .collect();
        assert_eq!(served.len(), here.online.len(), "{who}");
        assert_eq!(served.into_iter().collect::<CpuSet>(), here.online, "{who}");
        assert!(
            pinned.iter().all(|shard| shard.serves.contains(shard.cpu)),
            "{who}"
        );
        assert_eq!(plan.why.shards.len(), pinned.len(), "{who}");
        if !options.smt {
            for core in &here.topology.cores {
                assert!(core.intersection(&shards).len() <= 1, "{who}");
            }
        }
    }
    assert_eq!(plan.why.sysctls.len(), layout.sysctls.len(), "{who}");
    assert_eq!(plan.why.nics.len(), layout.nics.len(), "{who}");
    for (nic, why) in layout.nics.iter().zip(&plan.why.nics) {
        assert_eq!(why.irqs.len(), nic.irqs.len(), "{who}");
        assert_eq!(why.rps.len(), nic.rps.len(), "{who}");
        assert_eq!(why.xps.len(), nic.xps.len(), "{who}");
        check_nic(here, &shards, nic, &who);
    }
    let whys = plan.why.shards.iter().chain(&plan.why.sysctls);
    assert!(whys.into_iter().all(|why| !why.is_empty()), "{who}");
    let picture = Picture { layout, here };
    assert!(!picture.to_string().is_empty());
}

fn check_nic(here: &Inspection, shards: &CpuSet, nic: &Nic, who: &str) {
    for (_, cpus) in &nic.irqs {
        assert_eq!(cpus.len(), 1, "{who}");
        assert!(cpus.difference(&here.usable).is_empty(), "{who}");
    }
    for (_, cpus) in &nic.rps {
        assert!(cpus.difference(shards).is_empty(), "{who}");
        let node = |cpu: u32| {
            here.topology
                .cpus
                .iter()
                .find(|it| it.id == cpu)
                .unwrap()
                .node
        };
        let nodes: Vec<Option<u32>> = cpus.iter().map(node).collect();
        assert!(nodes.windows(2).all(|pair| pair[0] == pair[1]), "{who}");
    }
    let mut taken = CpuSet::default();
    for (_, cpus) in &nic.xps {
        assert!(
            !cpus.is_empty() && taken.intersection(cpus).is_empty(),
            "{who}"
        );
        cpus.iter().for_each(|cpu| taken.insert(cpu));
    }
}

fn parsed(text: &str) -> Result<Layout, String> {
    Layout::parse(Path::new("layout.toml"), text).map_err(|errors| {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        errors.join("\n")
    })
}

#[test]
fn every_plan_reads_back_as_itself_and_keeps_the_rules() {
    for (name, _) in machines::ALL {
        let here = machines::inspection(name);
        for options in all_options(here) {
            check(here, &options, name);
        }
    }
}

#[test]
fn a_machine_with_one_file_missing_or_odd_is_planned_all_the_same() {
    let mut damaged = 0;
    for name in ["virtual_machine", "lone_core"] {
        let machine = machines::make(name, "damage");
        for file in machine.files() {
            let before = fs::read(&file).unwrap();
            for text in [
                None,
                Some(""),
                Some("-1"),
                Some("99999"),
                Some("0-3,\u{1}\""),
            ] {
                match text {
                    None => fs::remove_file(&file).unwrap(),
                    Some(text) => fs::write(&file, text).unwrap(),
                }
                let here = &machine.inspect();
                check(
                    here,
                    &PlanOptions::default(),
                    &format!("{name}: {text:?} in {file:?}"),
                );
                assert!(!Table(here).to_string().is_empty());
                fs::write(&file, &before).unwrap();
                damaged += 1;
            }
        }
    }
    assert!(damaged > 250, "{damaged}");
}
