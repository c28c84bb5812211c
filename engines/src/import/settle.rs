//! What follows from what was read, whatever the engine: devices, replicas, batches, and what is inert.
//!
//! In: a [`Draft`], and the devices that the user names. Out: the same with what can be computed.

use serde_json::Value;

use super::draft::{Draft, ValueOrigin};
use super::launched::Launched;

/// Completes a draft.
pub fn settle(draft: &mut Draft, gpus: Option<usize>, launched: Option<&Launched>) {
    devices(draft, gpus, launched);
    replicas(draft);
    shards(draft);
    batch(draft);
    inert(draft);
    if !draft.says("steps") {
        draft.lack("steps", "", "no file says how many; the plan says 1000, and no price depends on it");
    }
}

fn devices(draft: &mut Draft, gpus: Option<usize>, launched: Option<&Launched>) {
    let told = draft.count("devices");
    let launcher = launched.map(|launched| launched.launcher.clone()).unwrap_or_default();
    let by_launcher = launched.and_then(Launched::devices);
    if let Some(gpus) = gpus {
        let other = by_launcher.clone().and_then(Result::ok).or(told).filter(|other| *other != gpus && *other > 1);
        if let Some(other) = other {
            draft.note(format!("the files are for {other} devices, --gpus is {gpus}"));
        }
        draft.state("devices", "--gpus", gpus);
    } else if let Some(Ok(count)) = by_launcher {
        draft.recompute("devices", count, format!("nodes · processes of {launcher}"));
    } else if let (Some(Err(why)), None) = (&by_launcher, told) {
        draft.lack("devices", &launcher, format!("{why}; give --gpus N"));
    }
    if draft.says("devices") {
        return;
    }
    let axes = ["dp", "tp", "pp", "cp"].map(|axis| draft.count(axis));
    if let [Some(dp), Some(tp), Some(pp), Some(cp)] = axes {
        draft.compute("devices", product(&[dp, tp, pp, cp]), "the product of the axes");
        return;
    }
    let shards = draft.value("shard_degree").and_then(Value::as_i64).filter(|shards| *shards > 0);
    if let (Some(shards), Some(replicate), [_, Some(tp), Some(pp), Some(cp)]) = (shards, draft.count("replicate"), axes)
    {
        draft.compute("devices", product(&[shards as usize, replicate, tp, pp, cp]), "the product of the degrees");
        return;
    }
    // A batch in both words says how many replicas there are.
    if let (Some(global), Some(micro), Some(times)) =
        (draft.count("global_batch"), draft.count("microbatch"), draft.count("accumulation"))
        && let [_, Some(tp), Some(pp), Some(cp)] = axes
        && micro * times > 0
        && global.is_multiple_of(micro * times)
        && draft.facts["accumulation"].origin == ValueOrigin::Stated
        && draft.facts["microbatch"].origin == ValueOrigin::Stated
    {
        draft.compute(
            "devices",
            product(&[global / micro / times, tp, pp, cp]),
            "of the global batch, a device's and its repetitions",
        );
        return;
    }
    draft.lack("devices", "", "no file says on how many devices: give --gpus N");
}

/// A product of more than is modelled is refused where it is kept.
fn product(factors: &[usize]) -> usize {
    factors.iter().fold(1, |all: usize, factor| all.saturating_mul(*factor))
}

fn replicas(draft: &mut Draft) {
    let Some(devices) = draft.count("devices") else {
        if !draft.says("dp") {
            draft.lack("dp", "", "the number of devices is not known");
        }
        return;
    };
    let axes = ["tp", "pp", "cp"].map(|axis| draft.count(axis));
    let [Some(tp), Some(pp), Some(cp)] = axes else {
        if !draft.says("dp") {
            draft.lack("dp", "", "an axis beside it is not known");
        }
        return;
    };
    let others = tp.saturating_mul(pp).saturating_mul(cp);
    if others > 0 && devices.is_multiple_of(others) {
        draft.compute("dp", devices / others, "devices / (tp · pp · cp)");
    } else if !draft.says("dp") {
        draft.lack("dp", "", format!("{devices} devices are no multiple of tp · pp · cp = {others}"));
    }
}

/// Over how many ranks ZeRO shards, where over a part.
fn shards(draft: &mut Draft) {
    let (Some(dp), Some(cp)) = (draft.count("dp"), draft.count("cp")) else { return };
    let data = dp * cp;
    if let Some(instances) = draft.count("instances").filter(|instances| *instances > 1) {
        if data.is_multiple_of(instances) {
            draft.state("shard", "--num-distributed-optimizer-instances", data / instances);
        } else {
            draft.fault(format!(
                "--num-distributed-optimizer-instances is {instances}: it must divide dp · cp = {data}"
            ));
        }
    }
    if let Some(replicate) = draft.count("replicate").filter(|replicate| *replicate > 1) {
        let sharded = draft.count("zero").is_some_and(|zero| zero > 0);
        if sharded && dp.is_multiple_of(replicate) && dp / replicate * cp > 1 {
            draft.state("shard", "data_parallel_replicate_degree", dp / replicate * cp);
        }
    }
    if draft.count("shard") == Some(data) || draft.count("shard") == Some(1) {
        draft.facts.remove("shard");
    }
}

fn batch(draft: &mut Draft) {
    if draft.says("device_batch") {
        return by_device(draft);
    }
    if draft.says("local_batch") {
        return by_replica(draft);
    }
    let dp = draft.count("dp");
    let stated = |draft: &Draft, key: &str| draft.count(key).filter(|count| *count > 0);
    let (micro, times, global) =
        (stated(draft, "microbatch"), stated(draft, "accumulation"), stated(draft, "global_batch"));
    let default =
        |draft: &Draft, key: &str| draft.facts.get(key).is_some_and(|fact| fact.origin == ValueOrigin::Default);
    let Some(dp) = dp.filter(|dp| *dp > 0) else {
        for key in ["global_batch", "accumulation", "microbatch"] {
            if !draft.says(key) {
                draft.lack(key, "", "the number of replicas is not known");
            }
        }
        return;
    };
    match (micro, times, global) {
        (Some(micro), times, Some(global)) if times.is_none() || default(draft, "accumulation") => {
            if global.is_multiple_of(micro * dp) {
                draft.recompute("accumulation", global / micro / dp, "global batch / (microbatch · dp)");
            } else {
                draft.lack(
                    "accumulation",
                    "",
                    format!("the global batch of {global} is no multiple of microbatch · dp = {micro} · {dp}"),
                );
            }
        }
        (Some(micro), Some(times), Some(global)) if micro * times * dp != global => {
            let words = ["microbatch", "accumulation", "global_batch"].map(|key| draft.word(key).to_owned());
            draft.fault(format!(
                "{} · {} · dp = {micro} · {times} · {dp} = {}, and {} is {global}: they have to be equal",
                words[0],
                words[1],
                micro * times * dp,
                words[2]
            ));
        }
        (Some(micro), Some(times), None) if !draft.lacks("global_batch") => {
            draft.compute("global_batch", micro * times * dp, "microbatch · repetitions · dp");
        }
        (Some(micro), None, None) if !draft.lacks("global_batch") && !draft.lacks("accumulation") => {
            draft.compute("accumulation", 1, "no more is said");
            draft.compute("global_batch", micro * dp, "microbatch · dp");
        }
        (None, times, Some(global)) if !draft.lacks("microbatch") => {
            let times = times.unwrap_or(1);
            if global.is_multiple_of(times * dp) {
                draft.recompute("microbatch", global / times / dp, "global batch / (repetitions · dp)");
                draft.compute("accumulation", times, "no more is said");
            }
        }
        _ => {}
    }
    for key in ["global_batch", "accumulation", "microbatch"] {
        if !draft.says(key) {
            draft.lack(key, "", "no file says it");
        }
    }
}

/// MaxText: sequences a device, maybe a part of one.
fn by_device(draft: &mut Draft) {
    let known = (
        draft.float("device_batch"),
        draft.count("devices"),
        draft.count("accumulation"),
        draft.count("dp"),
        draft.count("pp"),
    );
    let (Some(each), Some(devices), Some(times), Some(dp), Some(pp)) = known else {
        for key in ["global_batch", "microbatch"] {
            draft.lack(key, "per_device_batch_size", "the number of devices, or a batch, is not known");
        }
        return;
    };
    let global = (each * devices as f64 * times as f64).round() as usize;
    draft.compute("global_batch", global, "per_device_batch_size · devices · gradient_accumulation_steps");
    let rounds = if pp > 1 {
        draft.count("pipeline_microbatches").filter(|count| *count > 0).unwrap_or(pp) * times
    } else {
        times
    };
    draft.recompute(
        "accumulation",
        rounds,
        if pp > 1 { "a pipeline's microbatches" } else { "gradient_accumulation_steps" },
    );
    if rounds * dp > 0 && global.is_multiple_of(rounds * dp) && global > 0 {
        draft.compute("microbatch", global / rounds / dp, "global batch / (microbatches · dp)");
    } else {
        draft.lack(
            "microbatch",
            "per_device_batch_size",
            format!("a batch of {global} does not go into {rounds} parts of {dp} replicas each"),
        );
    }
}

/// torchtitan: sequences a replica.
fn by_replica(draft: &mut Draft) {
    let global =
        draft.value("global_batch").and_then(Value::as_i64).filter(|global| *global > 0).map(|global| global as usize);
    let (Some(local), Some(dp)) = (draft.count("local_batch").filter(|n| *n > 0), draft.count("dp").filter(|n| *n > 0))
    else {
        draft.lack("accumulation", "", "the number of replicas is not known");
        if global.is_none() {
            draft.lack("global_batch", "training.global_batch_size", "the number of replicas is not known");
        }
        return;
    };
    let rounds = draft.count("local_microbatches").unwrap_or(1);
    match global {
        None => {
            draft.facts.remove("global_batch");
            draft.compute("global_batch", local * dp, "training.local_batch_size · dp");
            draft.compute("accumulation", rounds, "no more is said");
        }
        Some(global) if global.is_multiple_of(local * dp) => {
            draft.compute(
                "accumulation",
                global / local / dp * rounds,
                "training.global_batch_size / (local_batch_size · dp)",
            );
            if global / local / dp > 1 && rounds > 1 {
                draft.note("several local batches a step: priced as one pipeline of all their microbatches");
            }
        }
        Some(global) => draft.lack(
            "accumulation",
            "training.global_batch_size",
            format!("{global} is no multiple of local_batch_size · dp = {local} · {dp}"),
        ),
    }
}

/// What is stated and changes nothing.
fn inert(draft: &mut Draft) {
    if draft.count("pp") == Some(1) {
        if draft.text("schedule").is_some_and(|name| name != "1f1b") || draft.says("schedule_name") {
            draft.inert("schedule", "1f1b", "one stage is run alike by every schedule");
        }
        if draft.count("chunks").is_some_and(|chunks| chunks > 1) {
            draft.fault(format!("{}: virtual stages need a pipeline of 2 or more", draft.word("chunks")));
        }
    }
    let data = draft.count("dp").zip(draft.count("cp")).map(|(dp, cp)| dp * cp);
    if data == Some(1) && draft.count("zero").is_some_and(|zero| zero > 0) {
        draft.inert("zero", 0, "with one replica there is nothing to shard");
    }
    if draft.count("tp") == Some(1) && draft.flag("sequence_parallel") {
        draft.inert("sequence_parallel", false, "at a tensor parallelism of 1 there is nothing to shard");
    }
    let dense = !draft.says("experts");
    if dense && draft.count("ep").is_some_and(|ep| ep > 1) && draft.engine == "deepspeed" {
        draft.inert("ep", 1, "the model has no experts");
    }
}
