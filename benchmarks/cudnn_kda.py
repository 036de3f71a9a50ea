"""cuDNN frontend's Kimi Delta Attention for Hopper as a bundle of `gdn2 referee`: its CUDA compiled by NVRTC, without a GPU.

Needs nvidia-cudnn-frontend, nvidia-cuda-nvrtc, nvidia-cuda-runtime, nvidia-cuda-cccl and nvidia-cuda-crt. Calls and sizes are
those of its launcher (linear_attention/hopper/cuda_host.py), without fusions of its own.
"""

import ctypes
import importlib.metadata
import importlib.util
import json
import pathlib
import subprocess

FUSED = "linear_attention/hopper/cuda_kernels/kda_fused_sm90.cu"
SHARED, THREADS = 94464, 128
# States are [V, K] there.
RULE = """rule kda_vk {
    decay: channel as f32; erase: scalar as f32; write: erase; key_dim: 128; value_dim: 128; dtype: bf16; state: vk;
}"""


def installed(package):
    """The folder of an installed package, which is not imported; None where it is not."""
    found = importlib.util.find_spec(package)
    return pathlib.Path(found.submodule_search_locations[0]) if found else None


def ptx(source, options):
    """PTX of a CUDA text by the NVRTC that is installed as a wheel, and its version."""
    cuda = installed("nvidia") / "cu13"
    nvrtc = ctypes.CDLL(str(next(iter(sorted(cuda.glob("lib/libnvrtc.so*"))))))
    program, size, major, minor = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_int(), ctypes.c_int()
    nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    name = source.name.encode()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), name, 0, None, None)
    given = [*options, f"-I{cuda / 'include'}", f"-I{cuda / 'include' / 'cccl'}", "-lineinfo"]
    failed = nvrtc.nvrtcCompileProgram(program, len(given), (ctypes.c_char_p * len(given))(*map(str.encode, given)))
    what = "ProgramLog" if failed else "PTX"
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    if failed:
        raise RuntimeError(f"NVRTC: {source.name}: {text.value.decode()[:2000]}")
    return text.value.decode(), f"NVRTC {major.value}.{minor.value}"


def bundle(gdn2, out, tokens, heads):
    """Writes the forward call; says so where the package is not there."""
    package = installed("cudnn")
    if package is None or not (package / FUSED).is_file():
        print("cudnn-kda: not built, needs nvidia-cudnn-frontend")
        return
    out = out / "cudnn-kda-forward"
    out.mkdir(parents=True, exist_ok=True)
    defines = (f"-DKDA_FUSED_SMEM_BYTES={SHARED}", "-DKDA_FUSED_FLAGS=0", "-DKDA_FUSED_GQA=0")
    text, compiled_by = ptx(package / FUSED, ["--gpu-architecture=compute_90a", "--std=c++17", *defines])
    (out / "kda_fused.ptx").write_text(text)
    (out / "rule.gdn2").write_text(RULE)
    shape, case, lengths = f"B=1,T={tokens},H={heads}", out / "case.safetensors", (tokens - tokens // 3, tokens // 3)
    command = [gdn2, "case", str(out / "rule.gdn2"), "--shape", shape, "--seqlens", ",".join(map(str, lengths))]
    subprocess.run([*command, "--no-gradients", "--output", str(case), "-q"], check=True)
    # Its launcher divides a sequence until the GPU is full, and warms each part up with some tokens before it: whole here.
    sequences, pieces = len(lengths), 1
    given = {name: {"file": case.name, "tensor": name, "as": "BF16"} for name in ("q", "k", "v")}
    given |= {name: {"file": case.name, "tensor": name, "as": "F32"} for name in ("g", "b", "initial_state")}
    buffers = {
        **given,
        "cu": {"file": case.name, "tensor": "cu_seqlens", "as": "I32"},
        "o": {"dtype": "BF16", "shape": [1, tokens, heads, 128], "output": True},
        "final_state": {"dtype": "F32", "shape": [sequences, heads, 128, 128], "output": True},
    }
    order = ("q", "k", "v", "g", "b", "cu", "initial_state", "o", "final_state")
    arguments = [{"buffer": name} for name in order]
    arguments += [{"i32": sequences}, {"i32": heads}, {"i32": pieces}, {"pointer": 0}, {"pointer": 0}]
    arguments += [{"f32": -5.0}, {"f32": 128**-0.5}, {"i32": heads}]
    launch = {"kernel": "kda_fused.ptx", "entry": "kda_fused", "grid": [heads, sequences * pieces], "block": [THREADS]}
    (out / "run.json").write_text(
        json.dumps({"buffers": buffers, "launches": [{**launch, "shared_bytes": SHARED, "args": arguments}]}, indent=1)
    )
    says = {
        "by": f"cuDNN frontend {importlib.metadata.version('nvidia-cudnn-frontend')}",
        "call": "kda_fused",
        "compiled_by": compiled_by,
        "rule": "kda",
        "pass": "forward",
        "shape": f"{shape} in {sequences} sequences,K=128,V=128",
        "run": "run.json",
        "reference": case.name,
        "outputs": {"o": "o", "final_state": "final_state"},
    }
    (out / "peer.json").write_text(json.dumps(says, indent=1))
    print(f"cudnn-kda: 1 launch in {out}", flush=True)
