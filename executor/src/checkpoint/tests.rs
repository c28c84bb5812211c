//! What a user relies on: the same bits come back, a kill at any point loses nothing saved, damage is named.

use super::*;
use serde_json::json;

/// A folder of this test's own, not there yet.
fn place(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("meshwright-checkpoint-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    dir
}

/// Two ranks' tensors, different each step.
fn state(step: usize) -> Vec<RankTensors> {
    let tensors = |rank: usize| {
        let values = |from: usize| (0..100).map(|i| ((i + from) * (step + 1)) as f32 / 7.0).collect();
        vec![
            ("adam.m".to_owned(), values(rank)),
            ("empty".to_owned(), vec![]),
            ("weights".to_owned(), values(50 + rank)),
        ]
    };
    (0..2).map(|rank| RankTensors { rank, tensors: tensors(rank) }).collect()
}

fn save(checkpoints: &Checkpoints, step: usize) {
    checkpoints.save(step, &json!({ "seed": 7, "step": step }), &state(step)).unwrap();
}

#[track_caller]
fn assert_latest(checkpoints: &Checkpoints, step: usize) {
    let expected = Loaded { step, meta: json!({ "seed": 7, "step": step }), ranks: state(step) };
    assert_eq!(checkpoints.latest().unwrap(), Some(expected));
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn every_bit_comes_back_in_the_order_of_names_and_ranks() {
    let dir = place("bits");
    let checkpoints = Checkpoints::new(&dir, 3);
    assert_eq!(checkpoints.latest().unwrap(), None);
    let odd = [0x7fc0_1234, 0x8000_0000, 0x0000_0001, 0xff80_0000, 0x3f80_0001].map(f32::from_bits);
    let rank = |rank| RankTensors { rank, tensors: vec![("b".into(), odd.to_vec()), ("a".into(), vec![rank as f32])] };
    checkpoints.save(12, &json!({}), &[rank(10), rank(2)]).unwrap();
    let loaded = checkpoints.latest().unwrap().unwrap();
    assert_eq!(loaded.ranks.iter().map(|rank| rank.rank).collect::<Vec<_>>(), [2, 10]);
    let [(a, _), (b, bits)] = &loaded.ranks[1].tensors[..] else { panic!("two tensors were saved") };
    assert_eq!((a.as_str(), b.as_str()), ("a", "b"));
    assert_eq!(bits.iter().map(|v| v.to_bits()).collect::<Vec<_>>(), odd.map(f32::to_bits));
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_last_few_are_kept_and_a_step_can_be_saved_again() {
    let dir = place("keep");
    let checkpoints = Checkpoints::new(&dir, 2);
    (1..=4).for_each(|i| save(&checkpoints, 5 * i));
    assert_eq!(names(&dir), ["step-00000015", "step-00000020"]);
    save(&checkpoints, 20);
    assert_eq!(names(&dir), ["step-00000015", "step-00000020"]);
    assert_latest(&checkpoints, 20);
    // Never the one just saved, even where a run that went further lies in the same folder.
    save(&checkpoints, 18);
    assert_eq!(names(&dir), ["step-00000015", "step-00000018", "step-00000020"]);
    fs::remove_dir_all(dir).unwrap();
}

/// The folder as a save leaves it when it is killed: after each file that it writes, and in the middle of each.
#[test]
fn a_kill_at_any_point_of_a_save_leaves_the_checkpoint_before() {
    let dir = place("kill");
    let checkpoints = Checkpoints::new(&dir, 1);
    save(&checkpoints, 4);
    let full = place("kill-full");
    save(&Checkpoints::new(&full, 1), 8);
    let whole = full.join("step-00000008");
    let written = ["rank-00000.safetensors", "rank-00001.safetensors", "manifest.json"];
    let unfinished = dir.join("step-00000008.tmp-99999");
    for files in 0..=written.len() {
        for torn in [false, true] {
            fs::create_dir(&unfinished).unwrap();
            for (i, name) in written.iter().take(files).enumerate() {
                let bytes = fs::read(whole.join(name)).unwrap();
                let end = if torn && i + 1 == files { bytes.len() / 2 } else { bytes.len() };
                fs::write(unfinished.join(name), &bytes[..end]).unwrap();
            }
            assert_latest(&checkpoints, 4);
            assert!(unfinished.exists(), "reading deletes nothing");
            save(&checkpoints, 4);
            assert_eq!(names(&dir), ["step-00000004"]);
        }
    }
    // Killed after the rename, before or in the middle of deleting the older one.
    fs::rename(&whole, dir.join("step-00000008")).unwrap();
    assert_latest(&checkpoints, 8);
    fs::rename(dir.join("step-00000004"), dir.join("step-00000004.tmp-99999-deleted")).unwrap();
    fs::remove_file(dir.join("step-00000004.tmp-99999-deleted/manifest.json")).unwrap();
    assert_latest(&checkpoints, 8);
    save(&checkpoints, 12);
    assert_eq!(names(&dir), ["step-00000012"]);
    fs::remove_dir_all(dir).unwrap();
    fs::remove_dir_all(full).unwrap();
}

#[test]
fn damage_is_named_with_what_to_do() {
    let dir = place("damage");
    let checkpoints = Checkpoints::new(&dir, 2);
    save(&checkpoints, 4);
    save(&checkpoints, 8);
    let newest = dir.join("step-00000008");
    let refused = |name: &str, change: &dyn Fn(&mut Vec<u8>), why: &str| {
        let file = newest.join(name);
        let whole = fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        change(&mut bytes);
        fs::write(&file, bytes).unwrap();
        let error = checkpoints.latest().unwrap_err();
        let text = error.to_string();
        let told = [file.to_str().unwrap(), why, "delete the folder", "the one before, of step 4"];
        assert!(error.exit_code() == 2 && told.iter().all(|part| text.contains(part)), "{text}");
        fs::write(&file, whole).unwrap();
    };
    refused("rank-00001.safetensors", &|bytes| *bytes.last_mut().unwrap() ^= 1, "its checksum is");
    refused("rank-00001.safetensors", &|bytes| bytes.truncate(100), "it has 100 bytes where");
    refused("manifest.json", &|bytes| bytes.truncate(30), "it is not a manifest");
    refused("manifest.json", &|bytes| *bytes = b"{\"step\":9,\"meta\":0,\"files\":{}}".to_vec(), "it says step 9");
    assert_latest(&checkpoints, 8);
    fs::remove_file(newest.join("rank-00000.safetensors")).unwrap();
    fs::remove_dir_all(dir.join("step-00000004")).unwrap();
    let text = checkpoints.latest().unwrap_err().to_string();
    assert!(text.contains("rank-00000.safetensors") && text.contains("no earlier one"), "{text}");
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn any_flipped_bit_of_a_manifest_is_damage_or_changes_nothing() {
    let dir = place("flipped");
    let checkpoints = Checkpoints::new(&dir, 1);
    let meta = json!({ "seed": 7, "optimizer": [0.001, 0.999_000_012_874_603_3, 1e-9] });
    checkpoints.save(4, &meta, &state(4)).unwrap();
    let file = dir.join("step-00000004/manifest.json");
    let whole = fs::read(&file).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, bytes).unwrap();
        match checkpoints.latest() {
            Ok(loaded) => {
                assert_eq!(loaded, Some(Loaded { step: 4, meta: meta.clone(), ranks: state(4) }), "bit {bit}")
            }
            Err(error) => assert!(error.to_string().contains("delete the folder"), "{error}"),
        }
    }
    // Manifests of older versions have no checksum.
    let mut older: serde_json::Value = serde_json::from_slice(&whole).unwrap();
    older.as_object_mut().unwrap().remove("crc32").unwrap();
    fs::write(&file, older.to_string()).unwrap();
    assert_eq!(checkpoints.latest().unwrap().unwrap().meta, meta);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn folders_that_no_save_named_are_left_alone() {
    let dir = place("names");
    let checkpoints = Checkpoints::new(&dir, 1);
    let theirs = ["step-5", "step-+7", "step-000000009", "step-00000099-copy"];
    theirs.iter().for_each(|name| fs::create_dir_all(dir.join(name)).unwrap());
    save(&checkpoints, 4);
    save(&checkpoints, 8);
    assert_eq!(checkpoints.steps().unwrap(), [8]);
    assert!(theirs.iter().all(|name| dir.join(name).exists()));
    assert_latest(&checkpoints, 8);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_folder_that_went_away_with_what_it_lay_in_is_not_made_again() {
    let outer = place("away");
    let checkpoints = Checkpoints::new(outer.join("checkpoints"), 1).make().unwrap();
    fs::remove_dir_all(&outer).unwrap();
    let error = checkpoints.save(4, &json!({}), &state(4)).unwrap_err();
    assert!(error.exit_code() == 1 && error.to_string().contains("renamed or deleted"), "{error}");
    assert!(!outer.exists());
}

#[test]
fn a_file_whose_sums_are_right_and_whose_inside_is_wrong_is_refused() {
    assert!(files::decode(b"not safetensors").unwrap_err().contains("not a safetensors file"));
    let anonymous = safetensors::serialize(Vec::<(String, safetensors::tensor::TensorView<'_>)>::new(), None).unwrap();
    assert!(files::decode(&anonymous).unwrap_err().contains("which rank"));
}
