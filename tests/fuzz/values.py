"""Bad values of options, by what the option takes."""

LONG = "n" * 5000

NUMBERS = ("abc", "", "nan", "-inf", "-1", "1e999", "0x10", "1,5", "$(true)", LONG)
WHOLE_NUMBERS = ("abc", "", "1.5", "1e3", "-1", "None", "0x10", "9" * 5000)

TEXTS = {
    "--batch": ("0", "a", "1.5", "1,,2"),
    "--budgets": ("", "a", "0", "2", "0.5,nan", "0.5;0.2"),
    "--dtype": ("float3", "", "Tensor", "nn", "FLOAT32", "int64"),
    "--fix": ("a", "diversity", "diversity=x", "diversity=2", "diversity=nan", "nothing=1", "="),
    "--kv-cache": ("abc", "", "0", "-5MiB", "1 parsec", "nan", "1e400", LONG),
    "--measure": ("l3", ""),
    "--method": ("unheard-of", "", "random@0.5", "random,seed", "random,speed=1", "preset:none", "searched,x=1", LONG),
    "--objective": ("beauty", "", "first"),
    "--shape": ("huge", ""),
    "--study": ("beauty", ""),
    "--text-tokens": ("0", "x", "-3"),
    "--tokens": ("all", ""),
    "--visual-tokens": ("0", "x", "-3"),
}

DEVICES = ("cuda", "cuda:7", "xpu", "meta", "mps", "nowhere", "", "cpu:x", "cuda:-1", "hpu", "vulkan", "a\nb", LONG)

PATHS = ("missing", "", "/", "/proc/self/mem", "notes.txt/below", "~nobody/x", "a\nb", "\x1b[31mred", LONG)

STRATEGIES = (
    "",
    "@",
    "@0.5",
    "random",
    "random@",
    "random@x",
    "random@0",
    "random@2",
    "random@nan",
    "random@-1",
    "random@0.5,",
    "random@0.5,seed",
    "random@0.5,seed=x",
    "random@0.5,seed=-1",
    "random@0.5,speed=1",
    "random@0.5,=1",
    "random@0.5@0.5",
    "unheard-of@0.5",
    "random@0.5,recycler=x",
    "random@0.5,recycler=none,cell=2",
    "random@0.5,cell=0",
    "random@0.001",
    "calibrated-attention@0.5,threshold=x",
    "calibrated-attention@0.5,threshold=-1",
    "calibrated-attention@0.5,cell=nan",
    "calibrated-attention@0.5,diversity=7",
    "fastv@0.5,stages=x",
    "fastv@0.5,stages=99",
    "fastv@0.1",
    "fastv@0.5,stages=0",
    "pyramiddrop@0.5,stages=4/2",
    "preset:",
    "preset:unknown",
    "preset:../../pyproject",
    "visionzip@0.5",
    "preset:llava-onevision-7b/25",
    "missing.json",
    "/",
    ".",
    "~",
    "a\nb@0.5",
    "\x1b[31m@0.5",
    LONG,
    f"random@{LONG}",
    f"{LONG}@0.5",
)
