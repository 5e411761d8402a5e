"""Loss, regularisation, gradient and logits of a reversible ODE network in float64: plain forward sweep that keeps every
state, plain backpropagation. Shares no code and no structure with the C++ program: blocks are written out as the
recurrences of Chang et al., AAAI 2018 (arXiv 1709.03698), convolutions are products of im2col matrices.

Knows nothing of files. `weights` is a dict from names below /model ("opening/kernel", "stage_1/bias", ...) to arrays.
"""
import numpy as np

EPSILON = 1e-5  # of batch norm


def columns(x):
    """[N, C, H, W] -> [C * 9, N * H * W]: the 3x3 neighbourhoods with zero padding 1; rows in the order c, ky, kx."""
    n, c, h, w = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifted = [[padded[:, :, ky:ky + h, kx:kx + w] for kx in range(3)] for ky in range(3)]
    return np.array(shifted).transpose(3, 0, 1, 2, 4, 5).reshape(c * 9, n * h * w)


def convolve(kernel, x):
    """K * x, cross-correlation; K [out, in, 3, 3], x [N, in, H, W]."""
    n, _, h, w = x.shape
    out = kernel.reshape(len(kernel), -1) @ columns(x)
    return out.reshape(-1, n, h, w).transpose(1, 0, 2, 3)


def transposed(kernel):
    """The kernel of the adjoint: in and out exchanged, both axes mirrored."""
    return kernel.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1]


def kernel_gradient(x, grad_out):
    """d <grad_out, K * x> / dK, [out, in, 3, 3]."""
    out, inner = grad_out.shape[1], x.shape[1]
    flat = grad_out.transpose(1, 0, 2, 3).reshape(out, -1)
    return (flat @ columns(x).T).reshape(out, inner, 3, 3)


def round_to_grid(x, grid_bits):
    """Nearest multiple of 2^-grid_bits, ties to even, -0 becomes +0; grid_bits 0: unchanged."""
    if grid_bits == 0:
        return x
    return np.rint(x * 2.0 ** grid_bits) * 2.0 ** -grid_bits + 0.0


class SymmetricForce:
    """F(x) = K^T relu(K x + b)."""

    @staticmethod
    def forward(kernel, bias, x):
        return convolve(transposed(kernel), np.maximum(convolve(kernel, x) + bias[:, None, None], 0))

    @staticmethod
    def backward(kernel, bias, x, g):
        """(dx, dK, db) of <g, F(x)>."""
        z = convolve(kernel, x) + bias[:, None, None]
        # <g, K^T a> = <K g, a>: K enters once as the outer map (its input is g, its output a) and once as the inner.
        dz = convolve(kernel, g) * (z > 0)
        dk = kernel_gradient(g, np.maximum(z, 0)) + kernel_gradient(x, dz)
        return convolve(transposed(kernel), dz), dk, dz.sum(axis=(0, 2, 3))


class AntisymmetricForce:
    """F(x) = relu((K - K^T) x + b)."""

    @staticmethod
    def forward(kernel, bias, x):
        return np.maximum(convolve(kernel - transposed(kernel), x) + bias[:, None, None], 0)

    @staticmethod
    def backward(kernel, bias, x, g):
        a = kernel - transposed(kernel)
        dz = g * (convolve(a, x) + bias[:, None, None] > 0)
        da = kernel_gradient(x, dz)
        return convolve(transposed(a), dz), da - transposed(da), dz.sum(axis=(0, 2, 3))


def batch_norm(x, scale, shift):
    """Normalised by the statistics of x itself (biased variance). Returns y and what the backward sweep needs."""
    mean = x.mean(axis=(0, 2, 3), keepdims=True)
    deviation = np.sqrt(x.var(axis=(0, 2, 3), keepdims=True) + EPSILON)
    unit = (x - mean) / deviation
    return scale[:, None, None] * unit + shift[:, None, None], (unit, deviation)


def batch_norm_backward(g, scale, kept):
    """(dx, dscale, dshift), through the statistics too."""
    unit, deviation = kept
    du = g * scale[:, None, None]
    axes = (0, 2, 3)
    dx = (du - du.mean(axis=axes, keepdims=True) - unit * (du * unit).mean(axis=axes, keepdims=True)) / deviation
    return dx, (g * unit).sum(axis=axes), g.sum(axis=axes)


def pool(x):
    """2x2 average with stride 2."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).mean(axis=(3, 5))


def widen(x, channels):
    """Zero channels, half in front and half behind, an odd one behind."""
    more = channels - x.shape[1]
    return np.pad(x, ((0, 0), (more // 2, more - more // 2), (0, 0), (0, 0)))


class Network:
    """arch: hamiltonian, leapfrog or midpoint; blocks: one count a stage."""

    def __init__(self, arch, blocks, step_size, grid_bits=0):
        self.arch, self.blocks, self.h, self.grid_bits = arch, list(blocks), step_size, grid_bits
        self.force = AntisymmetricForce if arch == "midpoint" else SymmetricForce

    def rounded(self, x):
        return round_to_grid(x, self.grid_bits)

    # One block of stage `k` (its kernels [couplings, c, c, 3, 3] and biases), number `j`.

    def block(self, kernel, bias, j, p, q):
        f, h = self.force.forward, self.h
        if self.arch == "hamiltonian":
            p = p + self.rounded(h * f(kernel[2 * j], bias[2 * j], q))
            return p, q + self.rounded(-h * f(kernel[2 * j + 1], bias[2 * j + 1], p))
        if self.arch == "leapfrog":
            return q, 2 * q - p + self.rounded(-h * h * f(kernel[j], bias[j], q))
        return q, p + self.rounded(2 * h * f(kernel[j], bias[j], q))

    def block_backward(self, kernel, bias, j, state, grad, dkernel, dbias):
        """Gradients with respect to the block's input `state` from those of its output; adds to dkernel, dbias."""
        (p, q), (gp, gq), h = state, grad, self.h

        def through_force(index, x, g):
            dx, dk, db = self.force.backward(kernel[index], bias[index], x, g)
            dkernel[index] += dk
            dbias[index] += db
            return dx

        if self.arch == "hamiltonian":
            new_p = p + self.rounded(h * self.force.forward(kernel[2 * j], bias[2 * j], q))
            gp = gp + through_force(2 * j + 1, new_p, -h * gq)
            return gp, gq + through_force(2 * j, q, h * gp)
        if self.arch == "leapfrog":
            return -gq, gp + 2 * gq + through_force(j, q, -h * h * gq)
        return gq, gp + through_force(j, q, 2 * h * gq)

    def forward(self, weights, images):
        """Logits and everything met on the way."""
        kept = {"images": images}
        normed, kept["opening"] = batch_norm(convolve(weights["opening/kernel"], images),
                                             weights["opening/norm/scale"], weights["opening/norm/shift"])
        kept["opened"] = normed > 0
        y = self.rounded(np.maximum(normed, 0))
        half = y.shape[1] // 2
        p, q = (y[:, :half], y[:, half:]) if self.arch == "hamiltonian" else (np.zeros_like(y), y)
        kept["states"] = []
        for k, num_blocks in enumerate(self.blocks, start=1):
            kernel, bias = weights[f"stage_{k}/kernel"], weights[f"stage_{k}/bias"]
            if k > 1:
                p, q = (self.rounded(widen(pool(x), kernel.shape[1])) for x in (p, q))
            states = []
            for j in range(num_blocks):
                states.append((p, q))
                p, q = self.block(kernel, bias, j, p, q)
            kept["states"].append(states)
        features = np.concatenate([p, q], axis=1) if self.arch == "hamiltonian" else q
        normed, kept["closing"] = batch_norm(features, weights["closing/norm/scale"], weights["closing/norm/shift"])
        kept["closed"] = normed > 0
        kept["averages"] = np.maximum(normed, 0).mean(axis=(2, 3))
        return kept["averages"] @ weights["closing/weight"].T + weights["closing/bias"], kept

    def backward(self, weights, kept, dlogits, gradient):
        """Adds the gradient of <dlogits, logits> to `gradient`."""
        gradient["closing/weight"] += dlogits.T @ kept["averages"]
        gradient["closing/bias"] += dlogits.sum(axis=0)
        closed = kept["closed"]
        g = np.broadcast_to((dlogits @ weights["closing/weight"])[:, :, None, None], closed.shape) * closed
        g = g / (closed.shape[2] * closed.shape[3])
        g, dscale, dshift = batch_norm_backward(g, weights["closing/norm/scale"], kept["closing"])
        gradient["closing/norm/scale"] += dscale
        gradient["closing/norm/shift"] += dshift
        half = g.shape[1] // 2
        grad = (g[:, :half], g[:, half:]) if self.arch == "hamiltonian" else (np.zeros_like(g), g)

        for k in range(len(self.blocks), 0, -1):
            states = kept["states"][k - 1]
            for j in range(self.blocks[k - 1] - 1, -1, -1):
                grad = self.block_backward(weights[f"stage_{k}/kernel"], weights[f"stage_{k}/bias"], j, states[j], grad,
                                           gradient[f"stage_{k}/kernel"], gradient[f"stage_{k}/bias"])
            if k > 1:
                before = weights[f"stage_{k - 1}/kernel"].shape[1]
                first = (grad[0].shape[1] - before) // 2
                grad = tuple(x[:, first:first + before].repeat(2, axis=2).repeat(2, axis=3) / 4 for x in grad)

        g = np.concatenate(grad, axis=1) if self.arch == "hamiltonian" else grad[1]
        g, dscale, dshift = batch_norm_backward(g * kept["opened"], weights["opening/norm/scale"], kept["opening"])
        gradient["opening/norm/scale"] += dscale
        gradient["opening/norm/shift"] += dshift
        gradient["opening/kernel"] += kernel_gradient(kept["images"], g)

    def regularization(self, weights, weight_decay, smoothness, gradient):
        """weight_decay/2 sum |W|^2 + smoothness/(2h) sum |theta_j - theta_{j-1}|^2; adds its gradient."""
        total = 0.0
        for name in weights:
            if name.endswith("/kernel") or name == "closing/weight":
                total += weight_decay / 2 * np.sum(weights[name] ** 2)
                gradient[name] += weight_decay * weights[name]
        # The same coupling of the block before lies one block's couplings earlier.
        stride = 2 if self.arch == "hamiltonian" else 1
        for k in range(1, len(self.blocks) + 1):
            for name in (f"stage_{k}/kernel", f"stage_{k}/bias"):
                difference = weights[name][stride:] - weights[name][:-stride]
                total += smoothness / (2 * self.h) * np.sum(difference ** 2)
                gradient[name][stride:] += smoothness / self.h * difference
                gradient[name][:-stride] -= smoothness / self.h * difference
        return total


def trainable(weights):
    """Names of what a gradient has: no running statistics, no statistics of the input."""
    return [name for name in weights if not name.startswith("input/") and not name.endswith(("/mean", "/variance"))]


def micro_batch_sizes(num_samples, num_micro_batches):
    """As even as can be, larger first."""
    whole, larger = divmod(num_samples, num_micro_batches)
    return [whole + 1] * larger + [whole] * (num_micro_batches - larger)


def loss_and_gradient(network, weights, images, labels, num_micro_batches, weight_decay, smoothness):
    """(loss, regularization, {name: gradient of their sum}, logits) of the samples as one mini-batch."""
    gradient = {name: np.zeros_like(weights[name]) for name in trainable(weights)}
    loss, all_logits, first = 0.0, [], 0
    for size in micro_batch_sizes(len(labels), num_micro_batches):
        share = slice(first, first + size)
        first += size
        logits, kept = network.forward(weights, images[share])
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        own = np.arange(size), labels[share]
        loss -= log_probability[own].sum() / len(labels)
        dlogits = np.exp(log_probability)
        dlogits[own] -= 1
        network.backward(weights, kept, dlogits / len(labels), gradient)
        all_logits.append(logits)
    regularization = network.regularization(weights, weight_decay, smoothness, gradient)
    return loss, regularization, gradient, np.concatenate(all_logits)
