"""Metrics of pictures: PSNR, SSIM, LPIPS, DISTS, NIQE, and those of pyiqa where it is installed."""
