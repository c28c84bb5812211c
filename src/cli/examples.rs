//! Examples that stand below the help of commands; a test runs what they say.

/// Of `plan`.
pub const PLAN: &str = "Examples:
  meshwright plan llama3-8b --cluster \"8x dgx-h100\"
  meshwright plan llama3-70b --cluster \"64x dgx-h100\" --seq 8192 --global-batch 512 --tokens 2T -o plan.toml
  meshwright plan hf/config.json --cluster \"2048x tpu-v5p\" --objective cost --deadline 30d --html plan.html
  meshwright plan llama3-8b --cluster \"2x dgx-h100\" --tp 2 --zero 1";
/// Of `simulate`.
pub const SIMULATE: &str = "Examples:
  meshwright simulate plan.toml --cluster \"64x dgx-h100\"
  meshwright simulate plan.toml --cluster \"64x dgx-h100\" --stack ideal --trace trace.json";
/// Of `explain`.
pub const EXPLAIN: &str = "Examples:
  meshwright explain plan.toml --cluster \"64x dgx-h100\"
  meshwright explain plan.toml --cluster \"64x dgx-h100\" --measured-step 15.7s
  meshwright explain plan.toml --cluster \"64x dgx-h100\" --html plan.html";
/// Of `run`.
pub const RUN: &str = "Examples:
  meshwright run plan.toml --data corpus/ -o runs/first
  meshwright run plan.toml --data corpus/ -o runs/first --resume --steps 2000
  meshwright run plan.toml --device wgpu";
/// Of `compare`.
pub const COMPARE: &str = "Examples:
  meshwright compare llama3-70b --cluster \"64x dgx-h100\" --cluster \"96x dgx-a100-80gb\" --seq 8192 --global-batch 512 --tokens 1T
  meshwright compare scenarios.toml -o out.csv --html out.html";
/// Of `size`.
pub const SIZE: &str = "Examples:
  meshwright size --params 8B
  meshwright size --tokens 2T --inference 10T --cluster \"64x dgx-h100\" -o decoder.toml
  meshwright size --budget '$5M' --cluster \"64x dgx-h100\" --price '$2.50'
  meshwright size --loss 2.1 --law muennighoff --unique 300G";
/// Of `hardware`.
pub const HARDWARE: &str = "Examples:
  meshwright hardware list
  meshwright hardware show dgx-h100
  meshwright hardware check ours.toml
  meshwright hardware calibrate -o me.toml --precision bf16";
/// Of `completions`.
pub const COMPLETIONS: &str = "Examples:
  meshwright completions bash > ~/.local/share/bash-completion/completions/meshwright
  meshwright completions zsh > \"${fpath[1]}/_meshwright\"
  meshwright completions fish > ~/.config/fish/completions/meshwright.fish";
