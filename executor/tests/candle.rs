//! The kernels beside candle-nn's layers and candle's autograd: written by others, so an error would have to be made twice.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{loss, ops, rotary_emb};
use meshwright_executor::kernels::{self, Floats, FloatsMut, Team};
use meshwright_hardware::op::{ActivationKind, AttentionDims, Layout, NormKind};

/// `n` values in -1..1, the same for a seed.
fn random(seed: u64, n: usize) -> Vec<f32> {
    let wave = |i: usize| ((i as f64 + 1.0) * (seed as f64 + 0.618_033_988_75)).sin() * 43_758.545_312_3;
    (0..n).map(|i| (wave(i).fract() * 2.0 - wave(i).signum()) as f32).collect()
}

fn var(values: &[f32], shape: &[usize]) -> Var {
    Var::from_tensor(&Tensor::from_slice(values, shape, &Device::Cpu).unwrap()).unwrap()
}

/// The gradient of `Σ y · dy` with respect to a variable.
fn grad(y: &Tensor, dy: &Tensor, x: &Var) -> Vec<f32> {
    let grads = (y * dy).unwrap().sum_all().unwrap().backward().unwrap();
    values(grads.get(x).unwrap())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}

#[track_caller]
fn assert_close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 2e-5 * want.abs().max(1.0), "[{i}]: {got}, candle {want}");
    }
}

#[test]
fn norms_are_candles() {
    let (rows, cols, team) = (7, 33, Team::new(2));
    let (x, gain, bias, dy) = (random(1, rows * cols), random(2, cols), random(3, cols), random(4, rows * cols));
    let [vx, vdy] = [&x, &dy].map(|v| var(v, &[rows, cols]));
    let [vgain, vbias] = [&gain, &bias].map(|v| var(v, &[cols]));
    for kind in [NormKind::Layer, NormKind::Rms] {
        let layer = kind == NormKind::Layer;
        // The slow forms are the ones with a gradient.
        let want = if layer {
            ops::layer_norm_slow(&vx, &vgain, &vbias, 1e-5).unwrap()
        } else {
            ops::rms_norm_slow(&vx, &vgain, 1e-5).unwrap()
        };
        let (mut y, mut stats) = (vec![0.0; rows * cols], vec![0.0; 2 * rows]);
        kernels::norm(&team, kind, rows, cols, &x, &gain, layer.then_some(&bias[..]), &mut y, &mut stats);
        assert_close(&y, &values(&want));
        let (mut dx, mut dgain, mut dbias) = (vec![0.0; rows * cols], vec![0.0; cols], vec![0.0; cols]);
        let db = layer.then_some(&mut dbias[..]);
        kernels::norm_grad(&team, kind, rows, cols, false, &x, &gain, &stats, &dy, &mut dx, &mut dgain, db);
        assert_close(&dx, &grad(&want, &vdy, &vx));
        assert_close(&dgain, &grad(&want, &vdy, &vgain));
        if layer {
            assert_close(&dbias, &grad(&want, &vdy, &vbias));
        }
    }
}

#[test]
fn activations_are_candles() {
    let (rows, cols, team) = (5, 19, Team::new(2));
    let dout = random(5, rows * cols);
    let vdout = var(&dout, &[rows, cols]);
    for kind in [ActivationKind::Gelu, ActivationKind::SwiGlu] {
        let wide = cols * kind.width();
        let u = random(6, rows * wide);
        let vu = var(&u, &[rows, wide]);
        let want = match kind {
            ActivationKind::Gelu => vu.gelu().unwrap(),
            ActivationKind::SwiGlu => ops::swiglu(&vu).unwrap(),
        };
        let (mut out, mut du) = (vec![0.0; rows * cols], vec![0.0; rows * wide]);
        kernels::activation(&team, kind, rows, cols, &u, &mut out);
        assert_close(&out, &values(&want));
        kernels::activation_grad(&team, kind, rows, cols, &u, &dout, &mut du);
        assert_close(&du, &grad(&want, &vdout, &vu));
    }
}

#[test]
fn linear_layers_are_candles() {
    let (m, n, k, team) = (9, 21, 17, Team::new(2));
    let (a, b) = (random(7, m * k), random(8, n * k));
    let want = candle_nn::Linear::new(var(&b, &[n, k]).as_tensor().clone(), None);
    let want = candle_nn::Module::forward(&want, &var(&a, &[m, k])).unwrap();
    let mut c = vec![0.0; m * n];
    let (left, right) = (Floats::Full(&a), Floats::Full(&b));
    kernels::matmul(&team, Layout::Nt, m, n, k, left, right, None, false, FloatsMut::Full(&mut c));
    assert_close(&c, &values(&want));
}

#[test]
fn cross_entropy_is_candles() {
    let (rows, vocab, team) = (6, 50, Team::new(2));
    let logits = random(9, rows * vocab);
    let ids: Vec<u32> = (0..rows as u32).map(|row| row * 7 % vocab as u32).collect();
    let targets: Vec<f32> = ids.iter().map(|&id| f32::from_bits(id)).collect();
    let v = var(&logits, &[rows, vocab]);
    let want = loss::cross_entropy(&v, &Tensor::new(ids, &Device::Cpu).unwrap()).unwrap();
    let (mut stats, mut grads, mut total) = (vec![0.0; 3 * rows], logits.clone(), [0.0]);
    kernels::loss_stats(
        &team,
        rows,
        kernels::VocabShard::of(vocab, vocab, 0),
        Floats::Full(&logits),
        &targets,
        &mut stats,
    );
    let (scales, slopes) = ([1.0 / rows as f32; 2], FloatsMut::Full(&mut grads));
    kernels::loss(
        &team,
        rows,
        kernels::VocabShard::of(vocab, vocab, 0),
        1,
        scales,
        &targets,
        &stats,
        slopes,
        &mut total,
    );
    assert_close(&total, &values(&want));
    assert_close(&grads, &grad(&want, &want.ones_like().unwrap(), &v));
}

#[test]
fn rotary_attention_is_candles() {
    let dims = AttentionDims { batch: 2, seq: 12, heads: 4, kv_heads: 2, head_dim: 8, causal: true };
    let (rows, wide, team) = (dims.batch * dims.seq, dims.qkv_cols(), Team::new(2));
    let (qkv, dout) = (random(10, rows * wide), random(11, rows * dims.heads * dims.head_dim));
    let v = var(&qkv, &[dims.batch, dims.seq, wide]);
    let want = candle_attention(&v, &dims);
    let turn = |inverse: bool, x: &mut [f32]| {
        let turned = dims.heads + dims.kv_heads;
        kernels::rope(&team, rows, dims.seq, wide, turned, dims.head_dim, 1e4, inverse, |at| at, x);
    };
    let mut turned = qkv.clone();
    turn(false, &mut turned);
    let (mut out, mut lse) = (vec![0.0; dout.len()], vec![0.0; rows * dims.heads]);
    kernels::attention(&team, dims, &turned, &mut out, &mut lse);
    assert_close(&out, &values(&want));
    let mut dqkv = vec![0.0; qkv.len()];
    kernels::attention_grad(&team, dims, &turned, &out, &lse, &dout, &mut dqkv);
    turn(true, &mut dqkv);
    let vdout = var(&dout, &[dims.batch, dims.seq, dims.heads * dims.head_dim]);
    assert_close(&dqkv, &grad(&want, &vdout, &v));
}

/// Rotated, causal, grouped-query attention of packed rows, composed of candle's ops.
fn candle_attention(qkv: &Var, dims: &AttentionDims) -> Tensor {
    let (q, kv, width) = (dims.heads, dims.kv_heads, dims.head_dim);
    let part = |first: usize, heads: usize| {
        let part = qkv.narrow(2, first * width, heads * width).unwrap();
        part.reshape((dims.batch, dims.seq, heads, width)).unwrap().transpose(1, 2).unwrap().contiguous().unwrap()
    };
    let angle = |at: usize| (at / (width / 2)) as f32 * 1e4_f32.powf(-2.0 * (at % (width / 2)) as f32 / width as f32);
    let angles: Vec<f32> = (0..dims.seq * width / 2).map(angle).collect();
    let angles = Tensor::from_vec(angles, (dims.seq, width / 2), &Device::Cpu).unwrap();
    let turn = |x: Tensor| rotary_emb::rope_slow(&x, &angles.cos().unwrap(), &angles.sin().unwrap()).unwrap();
    let repeat = |x: Tensor| {
        let shape = (dims.batch, kv, q / kv, dims.seq, width);
        x.unsqueeze(2).unwrap().broadcast_as(shape).unwrap().reshape((dims.batch, q, dims.seq, width)).unwrap()
    };
    let (query, key, value) = (turn(part(0, q)), repeat(turn(part(q, kv))), repeat(part(q + kv, kv)));
    let scores = (query.matmul(&key.t().unwrap()).unwrap() / (width as f64).sqrt()).unwrap();
    let mask: Vec<f32> =
        (0..dims.seq * dims.seq).map(|i| if i % dims.seq > i / dims.seq { -1e9 } else { 0.0 }).collect();
    let scores = scores.broadcast_add(&Tensor::from_vec(mask, (dims.seq, dims.seq), &Device::Cpu).unwrap()).unwrap();
    let out = ops::softmax(&scores, 3).unwrap().matmul(&value).unwrap();
    out.transpose(1, 2).unwrap().reshape((dims.batch, dims.seq, q * width)).unwrap()
}
