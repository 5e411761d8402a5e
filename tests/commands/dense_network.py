"""A network of revode's in numpy, in double and with whole matrices in place of convolutions: slow, plain, and made from
docs/model.md alone. What revode analyze finds is held against it."""
import numpy as np


def convolution_matrix(kernel, side):
    """K as a matrix over [channels, height, width]: 3x3, zero padding, cross-correlation."""
    outs, ins = kernel.shape[:2]
    matrix = np.zeros((outs, side, side, ins, side, side))
    for ky in range(3):
        for kx in range(3):
            for y in range(max(0, 1 - ky), min(side, side + 1 - ky)):
                for x in range(max(0, 1 - kx), min(side, side + 1 - kx)):
                    matrix[:, y, x, :, y + ky - 1, x + kx - 1] = kernel[:, :, ky, kx]
    return matrix.reshape(outs * side * side, ins * side * side)


class Force:
    def __init__(self, arch, kernel, bias, side):
        matrix = convolution_matrix(kernel, side)
        self.symmetric = arch != "midpoint"
        self.matrix = matrix if self.symmetric else matrix - matrix.T
        self.bias = np.repeat(bias, side * side)

    def value(self, x):
        hidden = np.maximum(self.matrix @ x + self.bias, 0)
        return self.matrix.T @ hidden if self.symmetric else hidden

    def jacobian(self, x):
        active = (self.matrix @ x + self.bias > 0).astype(float)[:, None] * self.matrix
        return self.matrix.T @ active if self.symmetric else active


def opening(model, images):
    """[images, width, side, side]: 3x3 convolution, batch norm of these images, ReLU."""
    kernel = model["opening/kernel"]
    n, _, side, _ = images.shape
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)))
    features = sum(np.einsum("oi,nihw->nohw", kernel[:, :, ky, kx], padded[:, :, ky:ky + side, kx:kx + side])
                   for ky in range(3) for kx in range(3))
    mean = features.mean(axis=(0, 2, 3), keepdims=True)
    variance = features.var(axis=(0, 2, 3), keepdims=True)
    scale, shift = (model[f"opening/norm/{name}"][None, :, None, None] for name in ("scale", "shift"))
    return np.maximum(scale * (features - mean) / np.sqrt(variance + 1e-5) + shift, 0)


def transition(state, channels):
    """Pooled 2x2, then zero channels in front and behind."""
    pooled = (state[:, ::2, ::2] + state[:, 1::2, ::2] + state[:, ::2, 1::2] + state[:, 1::2, 1::2]) / 4
    front = (channels - len(state)) // 2
    return np.pad(pooled, ((front, channels - len(state) - front), (0, 0), (0, 0)))


def jacobians(arch, model, blocks, step_size, images):
    """For each block, for each image, the Jacobian of the equation's right-hand side (for leapfrog F', whose
    eigenvalues mu mean +-sqrt(-mu)), at the states that the images have."""
    found = [[] for _ in range(sum(blocks))]
    h = step_size
    weights = [(model[f"stage_{k + 1}/kernel"], model[f"stage_{k + 1}/bias"]) for k in range(len(blocks))]
    for features in opening(model, images):
        if arch == "hamiltonian":
            p, q = np.split(features, 2)
        else:
            p, q = np.zeros_like(features), features
        block, side = 0, features.shape[-1]
        for k, (kernels, biases) in enumerate(weights):
            if k > 0:
                side //= 2
                p, q = (transition(slot, kernels.shape[1]) for slot in (p, q))
            shape, (p, q) = p.shape, (p.ravel(), q.ravel())
            forces = [Force(arch, kernel, bias, side) for kernel, bias in zip(kernels, biases)]
            for j in range(blocks[k]):
                if arch == "hamiltonian":
                    first, second = forces[2 * j], forces[2 * j + 1]
                    zero = np.zeros((p.size, p.size))
                    found[block].append(np.block([[zero, first.jacobian(q)], [-second.jacobian(p), zero]]))
                    p = p + h * first.value(q)
                    q = q - h * second.value(p)
                else:
                    force = forces[j]
                    found[block].append(force.jacobian(q))
                    p, q = q, (2 * q - p - h * h * force.value(q) if arch == "leapfrog" else p + 2 * h * force.value(q))
                block += 1
            p, q = p.reshape(shape), q.reshape(shape)
    return found
