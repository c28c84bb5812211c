//! What ranks as threads give each other, and how they wait.

use std::thread;
use std::time::Duration;

use meshwright_hardware::mesh::{Axis, Mesh, Rank};
use meshwright_hardware::program::Collective;

use super::{Threads, Transport};
use crate::error::ExecutorError;

/// Runs `body` on every rank; results in rank order.
fn on_all<T: Send>(threads: &Threads, body: impl Fn(Rank) -> T + Sync) -> Vec<T> {
    let ranks = threads.ranks();
    thread::scope(|scope| {
        let handles: Vec<_> = (0..ranks)
            .map(|rank| {
                scope.spawn({
                    let body = &body;
                    move || body(rank)
                })
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    })
}

fn line(dp: usize) -> Threads {
    Threads::new(Mesh { dp, pp: 1, tp: 1, ..Mesh::ONE })
}

/// Different for every rank and element; sums of them round.
fn value(rank: Rank, i: usize) -> f32 {
    ((rank * 7919 + i * 104_729) % 1009) as f32 / 1009.0
}

fn summed(ranks: usize, i: usize) -> f32 {
    (1..ranks).fold(value(0, i), |sum, rank| sum + value(rank, i))
}

fn exchanged(ranks: usize, op: Collective, elems: usize) -> Vec<Vec<f32>> {
    let threads = line(ranks);
    on_all(&threads, |rank| {
        let mut data: Vec<f32> = (0..elems).map(|i| value(rank, i)).collect();
        if op.sums() {
            threads.sum(rank, Axis::Dp, op, &mut data).unwrap();
        } else {
            threads.exchange(rank, Axis::Dp, op, 4, bytemuck::cast_slice_mut(&mut data)).unwrap();
        }
        data
    })
}

#[test]
fn narrow_elements_stay_whole() {
    // Shards of an odd number of halves, which no word is.
    let (ranks, chunk) = (3, 5);
    let threads = line(ranks);
    let number = |rank: usize, i: usize| (100 * rank + i) as u16;
    let exchange = |op| {
        on_all(&threads, |rank| {
            let mut data: Vec<u16> = (0..ranks * chunk).map(|i| number(rank, i)).collect();
            threads.exchange(rank, Axis::Dp, op, 2, bytemuck::cast_slice_mut(&mut data)).unwrap();
            data
        })
    };
    for got in exchange(Collective::AllGather) {
        assert!((0..ranks * chunk).all(|i| got[i] == number(i / chunk, i)));
    }
    for (rank, got) in exchange(Collective::AllToAll).into_iter().enumerate() {
        assert!((0..ranks * chunk).all(|i| got[i] == number(i / chunk, rank * chunk + i % chunk)));
    }
    for (rank, got) in exchange(Collective::Rotate).into_iter().enumerate() {
        assert!((0..ranks * chunk).all(|i| got[i] == number((rank + ranks - 1) % ranks, i)));
    }
}

#[test]
fn all_reduce_sums_in_rank_order_on_every_rank() {
    for (ranks, elems) in [(1, 3), (2, 1), (2, 10_000), (3, 4099), (4, 65)] {
        let want: Vec<f32> = (0..elems).map(|i| summed(ranks, i)).collect();
        for got in exchanged(ranks, Collective::AllReduce, elems) {
            assert_eq!(got, want, "{ranks} ranks, {elems} elements");
        }
    }
}

#[test]
fn shards_are_summed_gathered_and_exchanged() {
    let (ranks, chunk) = (3, 2500);
    let elems = ranks * chunk;
    for (rank, got) in exchanged(ranks, Collective::ReduceScatter, elems).into_iter().enumerate() {
        let mine = rank * chunk..(rank + 1) * chunk;
        assert!(mine.clone().all(|i| got[i] == summed(ranks, i)));
    }
    for got in exchanged(ranks, Collective::AllGather, elems) {
        assert!((0..elems).all(|i| got[i] == value(i / chunk, i)));
    }
    for (rank, got) in exchanged(ranks, Collective::Rotate, elems + 1).into_iter().enumerate() {
        assert!((0..elems + 1).all(|i| got[i] == value((rank + ranks - 1) % ranks, i)));
    }
    for (rank, got) in exchanged(ranks, Collective::AllToAll, elems).into_iter().enumerate() {
        assert!((0..elems).all(|i| got[i] == value(i / chunk, rank * chunk + i % chunk)));
    }
}

#[test]
fn groups_of_each_axis_are_apart() {
    let mesh = Mesh { dp: 2, pp: 1, tp: 2, ..Mesh::ONE };
    let threads = Threads::new(mesh);
    let got = on_all(&threads, |rank| {
        [Axis::Tp, Axis::Dp].map(|axis| {
            let mut data = [rank as f32];
            threads.sum(rank, axis, Collective::AllReduce, &mut data).unwrap();
            data[0]
        })
    });
    assert_eq!(got, [[1.0, 2.0], [1.0, 4.0], [5.0, 2.0], [5.0, 4.0]]);
}

#[test]
fn messages_arrive_in_order_and_their_memory_is_reused() {
    let threads = line(2);
    let got = on_all(&threads, |rank| {
        let mut got = Vec::new();
        for i in 0..200 {
            let mut data = [i as u8; 256];
            if rank == 0 {
                threads.send(0, 1, 0, &data).unwrap();
                threads.recv(0, 1, 0, &mut data).unwrap();
            } else {
                threads.recv(1, 0, 0, &mut data).unwrap();
                threads.send(1, 0, 0, &[!data[0]; 256]).unwrap();
            }
            got.push(data[255]);
        }
        got
    });
    assert!((0..200).all(|i| got[1][i] == i as u8 && got[0][i] == !(i as u8)));
    assert_eq!([0, 1].map(|rank| threads.staging_bytes(rank)), [256, 256]);
}

#[test]
fn ranks_that_wait_for_one_that_failed_are_told() {
    let threads = line(3);
    let errors = on_all(&threads, |rank| {
        let mut data = [0.0; 8];
        match rank {
            0 => threads.recv(0, 2, 0, &mut [0; 32]).unwrap_err(),
            1 => threads.sum(1, Axis::Dp, Collective::AllReduce, &mut data).unwrap_err(),
            _ => {
                thread::sleep(Duration::from_millis(5));
                threads.abort();
                threads.barrier(2).unwrap_err()
            }
        }
    });
    for (rank, error) in errors.into_iter().enumerate() {
        assert!(matches!(error, ExecutorError::PeerFailed { rank: who } if who == rank), "{error}");
    }
}

#[test]
fn sizes_that_do_not_match_are_errors_on_every_rank() {
    let threads = line(2);
    let errors = on_all(&threads, |rank| {
        let mut data = vec![0.0; 4 + rank];
        threads.sum(rank, Axis::Dp, Collective::AllReduce, &mut data).unwrap_err().to_string()
    });
    assert!(errors.iter().all(|error| error.contains("[4, 5]")), "{errors:?}");
    threads.send(0, 1, 0, &[1; 3]).unwrap();
    let error = threads.recv(1, 0, 0, &mut [0; 2]).unwrap_err().to_string();
    assert!(error.contains("waits for 2") && error.contains("sent 3"), "{error}");
}
