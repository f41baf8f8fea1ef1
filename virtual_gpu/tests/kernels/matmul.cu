// c = a b, all f32 and row-major, by tiles of 16 by 16 in shared memory.
#define TILE 16
extern "C" __global__ void matmul(const float* a, const float* b, float* c, int rows, int columns, int depth) {
  __shared__ float left[TILE][TILE], right[TILE][TILE];
  const int x = threadIdx.x, y = threadIdx.y;
  const int row = blockIdx.y * TILE + y, column = blockIdx.x * TILE + x;
  float sum = 0.0f;
  for (int start = 0; start < depth; start += TILE) {
    left[y][x] = row < rows && start + x < depth ? a[row * depth + start + x] : 0.0f;
#ifdef COLUMN_STORE
    right[x][y] = start + y < depth && column < columns ? b[(start + y) * columns + column] : 0.0f;
#else
    right[y][x] = start + y < depth && column < columns ? b[(start + y) * columns + column] : 0.0f;
#endif
    __syncthreads();
#pragma unroll
    for (int k = 0; k < TILE; k++)
#ifdef COLUMN_STORE
      sum = fmaf(left[y][k], right[x][k], sum);
#else
      sum = fmaf(left[y][k], right[k][x], sum);
#endif
#ifndef NO_BARRIER
    __syncthreads();
#endif
  }
  if (row < rows && column < columns) c[row * columns + column] = sum;
}
