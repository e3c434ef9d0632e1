// Jobs whose pieces throw, on a team of argv[1] threads: each ends, `finish` throws if a piece did, and the next job is whole.
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <system_error>

#include "team.hpp"

int main(int, char** argv) {
  try {
    sgl::Team team(std::atoi(argv[1]));
    for (int round = 0; round < 300; ++round) {
      std::atomic<int> n_done{0};
      const bool in_piece = round % 60 < 50, outside = round % 7 == 3;
      bool thrown = false;
      try {
        team.run([&](sgl::Member& me) {
          me.share(50, 1, [&](int i) {
            if (i == round % 60) throw std::bad_alloc();
            ++n_done;
          });
          me.share(50, 1, [&](int) { ++n_done; });
          if (outside) throw std::runtime_error("outside of a piece");
        });
      } catch (const std::exception&) {
        thrown = true;
      }
      if (thrown != (in_piece || outside) || (!in_piece && n_done != 100)) return std::printf("round %d\n", round), 1;
    }
    std::puts("all rounds");
  } catch (const std::system_error&) {
    std::puts("no more threads");
  }
}
