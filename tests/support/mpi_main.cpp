// Main of tests that run on several ranks: a failure on any rank fails the program, and so does a
// run without tests. Only rank 0 prints passing tests; every rank prints its failures.
#include <cstdio>

#include <gtest/gtest.h>
#include <mpi.h>

int main(int argc, char** argv) {
  int provided = 0;
  MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
  testing::InitGoogleTest(&argc, argv);
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  if (rank != 0) testing::GTEST_FLAG(print_time) = false;

  int failed = RUN_ALL_TESTS();

  if (testing::UnitTest::GetInstance()->test_to_run_count() == 0) {
    std::fprintf(stderr, "no test ran\n");
    failed = 1;
  }
  int failed_somewhere = 0;
  MPI_Allreduce(&failed, &failed_somewhere, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
  MPI_Finalize();
  return failed_somewhere;
}
