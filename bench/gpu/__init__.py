"""Everything that a machine with a GPU is needed for, prepared where there is none.

    python -m bench.gpu pack                      # here: into gpu-pack, with nvcc and a package index
    python -m bench.gpu run --rehearse            # here: every step, on the CPU
    python -m bench.gpu run                       # there: test and measure with gpu-pack; results into $OUT
    python -m bench.gpu run --seconds 200 labels  # some of the steps, within 200 s
    python -m bench.gpu list                      # the steps, their commands and limits

The pack holds the operators for the GPU, built here against LibTorch's stable ABI, and the packages that the
tests and rivals need and the machine lacks. The steps go from the most to the least worth knowing; each has a
limit, starts from the time that is left, and is written down when it ends, in summary.txt and results.tar.
One that fails does not stop the others.
"""
