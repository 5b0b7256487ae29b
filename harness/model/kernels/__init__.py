"""Triton kernels: what a GPU runs in one launch where torch would run several.

Only these modules import Triton, and they are imported when a kernel is first launched. The functions beside this
package (`harness.model.norm`, `activation`, `rotary`, `cross_entropy`) say what a kernel computes, hold its plain
counterpart for the CPU, and allocate its outputs.

Every kernel computes in fp32 whatever it reads, and rounds once when it writes. No kernel is made for one sequence
length: what changes between batches is an ordinary argument, so nothing is compiled after the first step.
"""
